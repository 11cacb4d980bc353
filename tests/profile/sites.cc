// Allocates from call sites whose figures are known, as the lines of its input say,
// and answers each line when it is done:
//
//   keep SITE COUNT BYTES      SITE (one, two, three or four) allocates blocks that stay
//   replace SITE COUNT BYTES   frees the oldest so many of them and allocates as many
//   churn SITE COUNT BYTES     allocates blocks and frees each at once
//   drop SITE                  frees what SITE has kept
//   grow SITE STEPS BYTES      SITE grows one block to so many bytes by realloc
//   threads SITE COUNT BYTES   "keep" in four threads at once
//   fork                       goes on as the child; the parent waits for it
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace sites {

using Blocks = std::vector<void*>;

// Each of these allocates itself: its name is in the profile.
#define SITE(name)                                                               \
  __attribute__((noinline)) void* name(std::size_t bytes) {                      \
    void* block = std::malloc(bytes);                                            \
    __asm__ volatile("" : "+r"(block));                                          \
    return block;                                                                \
  }                                                                              \
  __attribute__((noinline)) void* name##_again(void* block, std::size_t bytes) { \
    block = std::realloc(block, bytes);                                          \
    __asm__ volatile("" : "+r"(block));                                          \
    return block;                                                                \
  }
SITE(one)
SITE(two)
SITE(three)
SITE(four)

struct Site {
  void* (*allocate)(std::size_t);
  void* (*reallocate)(void*, std::size_t);
  Blocks kept;
};

std::map<std::string, Site>& all() {
  static std::map<std::string, Site> sites{{"one", {one, one_again, {}}},
                                           {"two", {two, two_again, {}}},
                                           {"three", {three, three_again, {}}},
                                           {"four", {four, four_again, {}}}};
  return sites;
}

void keep(Site& site, std::size_t count, std::size_t bytes, Blocks& blocks) {
  for (std::size_t i = 0; i < count; ++i) blocks.push_back(site.allocate(bytes));
}

void run(const std::string& verb, Site& site, std::size_t count, std::size_t bytes) {
  if (verb == "keep") {
    keep(site, count, bytes, site.kept);
  } else if (verb == "replace") {
    auto oldest = site.kept.begin();
    for (auto block = oldest; block != oldest + static_cast<long>(count); ++block) std::free(*block);
    site.kept.erase(oldest, oldest + static_cast<long>(count));
    keep(site, count, bytes, site.kept);
  } else if (verb == "churn") {
    for (std::size_t i = 0; i < count; ++i) std::free(site.allocate(bytes));
  } else if (verb == "drop") {
    for (void* block : site.kept) std::free(block);
    site.kept.clear();
  } else if (verb == "grow") {
    void* block = site.allocate(bytes / count);
    for (std::size_t step = 2; step <= count; ++step) block = site.reallocate(block, bytes / count * step);
    site.kept.push_back(block);
  } else if (verb == "threads") {
    Blocks blocks[4];
    std::vector<std::thread> threads;
    for (Blocks& own : blocks) threads.emplace_back([&] { keep(site, count, bytes, own); });
    for (std::thread& thread : threads) thread.join();
    for (const Blocks& own : blocks) site.kept.insert(site.kept.end(), own.begin(), own.end());
  } else {
    std::exit(2);
  }
}

}  // namespace sites

int main() {
  std::string verb, name;
  while (std::cin >> verb) {
    if (verb == "fork") {
      if (pid_t child = fork(); child != 0) {
        int status = 0;
        waitpid(child, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
      }
    } else {
      std::size_t count = 0, bytes = 0;
      std::cin >> name;
      if (verb != "drop") std::cin >> count >> bytes;
      sites::run(verb, sites::all().at(name), count, bytes);
    }
    std::cout << "done" << std::endl;
  }
}
