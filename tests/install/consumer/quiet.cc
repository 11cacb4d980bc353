// Names neither malloc nor operator new; libraries call them. Succeeds on hakmem.
#include <dlfcn.h>

#include <cstring>
#include <string>

int main(int, char** arguments) {
  std::string text(5000, 'x');
  Dl_info info;
  void* function = dlsym(RTLD_DEFAULT, "malloc");
  bool shared = dladdr(function, &info) != 0 && strstr(info.dli_fname, "libhakmem.so") != nullptr;
  bool linked_in = dladdr(function, &info) != 0 && strcmp(info.dli_fname, arguments[0]) == 0;
  return text.size() == 5000 && (shared || linked_in) ? 0 : 1;
}
