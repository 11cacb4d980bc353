// Prints which object malloc and operator new come from.
#include <dlfcn.h>
#include <hakmem.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

namespace {

const char* object_of(void* function) {
  Dl_info info;
  return dladdr(function, &info) != 0 ? info.dli_fname : "?";
}

}  // namespace

int main() {
  std::vector<std::string> strings(1000, std::string(100, 'x'));
  std::printf("malloc %s\n", object_of(reinterpret_cast<void*>(&std::malloc)));
  std::printf("new %s\n", object_of(reinterpret_cast<void*>(static_cast<void* (*)(std::size_t)>(&::operator new))));
  return strings.size() == 1000 ? 0 : 1;
}
