// Entry of the micro benchmarks. The allocator under test is whichever one
// serves this process; its file goes into the context, where the runner checks
// that a preload took effect.
#include <benchmark/benchmark.h>
#include <dlfcn.h>

int main(int argc, char** argv) {
  Dl_info info{};
  void* address = dlsym(RTLD_DEFAULT, "malloc");
  bool known = address != nullptr && dladdr(address, &info) != 0 && info.dli_fname != nullptr;
  benchmark::AddCustomContext("malloc", known ? info.dli_fname : "?");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
