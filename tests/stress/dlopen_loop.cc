// dlopen and dlclose in a loop, from several threads, of a library that
// allocates at every occasion it has.
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/stress/content.h"

namespace stress {
namespace {

using PluginWork = void* (*)(size_t);
using PluginKeep = void (*)();

// A copy under another name is another library, with static objects of its own.
std::string copy_of(const std::string& path, const std::string& directory, int number) {
  std::string copy = directory + "/plugin" + std::to_string(number) + ".so";
  int from = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  int to = open(copy.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
  CHECK(from >= 0 && to >= 0);
  char buffer[65536];
  for (ssize_t got; (got = read(from, buffer, sizeof buffer)) > 0;)
    CHECK(write(to, buffer, static_cast<size_t>(got)) == got);
  close(from);
  close(to);
  return copy;
}

void* load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) dprintf(2, "%s\n", dlerror());
  CHECK(library != nullptr);
  return library;
}

void* symbol(void* library, const char* name) {
  void* address = dlsym(library, name);
  CHECK(address != nullptr);
  return address;
}

// Every fourth round another thread uses the library's thread-local memory and ends.
void load_and_unload(const std::string& path, size_t rounds) {
  for (size_t round = 0; round < rounds; ++round) {
    void* library = load(path);
    auto work = reinterpret_cast<PluginWork>(symbol(library, "plugin_work"));
    auto keep = reinterpret_cast<PluginKeep>(symbol(library, "plugin_keep_in_thread"));
    size_t size = 1 + round * 131 % 60000;
    void* block = work(size);
    if (round % 4 == 0) {
      std::thread([&] {
        keep();
        free(work(100));
      }).join();
    }
    CHECK(dlclose(library) == 0);
    check_content(block, size, size);
    free(block);
    CHECK(dlopen("/does/not/exist.so", RTLD_NOW) == nullptr);
    CHECK(dlerror() != nullptr);
  }
}

bool is_loaded(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (library != nullptr) dlclose(library);
  return library != nullptr;
}

// A thread that ends after the library was closed still runs its destructors.
void close_before_thread_ends(const std::string& path) {
  for (int round = 0; round < 50; ++round) {
    std::thread([&] {
      void* library = load(path);
      reinterpret_cast<PluginKeep>(symbol(library, "plugin_keep_in_thread"))();
      free(reinterpret_cast<PluginWork>(symbol(library, "plugin_work"))(5000));
      CHECK(dlclose(library) == 0);
    }).join();
  }
}

}  // namespace
}  // namespace stress

// dlopen_loop PLUGIN
int main(int argc, char** argv) {
  using namespace stress;
  require_hakmem();
  CHECK(argc == 2);
  char pattern[] = "/tmp/dlopen_loop.XXXXXX";
  std::string directory = mkdtemp(pattern);
  constexpr int kThreads = 4;
  std::vector<std::string> paths;
  for (int i = 0; i < kThreads; ++i) paths.push_back(copy_of(argv[1], directory, i));

  load_and_unload(paths[0], 100);
  CHECK(!is_loaded(paths[0]));
  size_t settled = resident_bytes();
  load_and_unload(paths[0], 400);
  close_before_thread_ends(paths[0]);
  CHECK_OP(resident_bytes(), <=, settled + 10 * kMiB);  // a superslab more may stand on a huge page

  std::vector<std::thread> threads;
  for (const std::string& path : paths) threads.emplace_back([&path] { load_and_unload(path, 100); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& path : paths) CHECK(unlink(path.c_str()) == 0);
  CHECK(rmdir(directory.c_str()) == 0);
  return passed("dlopen_loop");
}
