// A directory of stats pages that others may write to: names and files are an
// input's. The exporter walks it twice; between, files are replaced, cut and removed.
#include "exporter/page_directory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exporter/served_pages.h"
#include "telemetry/system.h"
#include "tests/fuzz/page.h"

namespace hakmem::fuzz {
namespace {

constexpr size_t kMostSeries = 2000;
constexpr uint32_t kMostFiles = 4;

// A folder in memory, for as long as the fuzzer runs.
const std::string& folder() {
  static const std::string path = [] {
    char name[] = "/dev/shm/hakmem-fuzz.XXXXXX";
    HAKMEM_FUZZ_CHECK(mkdtemp(name) != nullptr);
    atexit([] { rmdir(folder().c_str()); });
    return std::string(name);
  }();
  return path;
}

// Named as the page of a process should be, mostly one that lives.
std::string take_name(Input* input, telemetry::Identity* identity) {
  auto kind = input->take<uint8_t>();
  static const uint64_t own_namespace = telemetry::own_pid_namespace();
  identity->pid_namespace = kind % 4 == 0 ? 1 + kind % 3 : own_namespace;
  identity->pid = kind % 8 == 1 ? static_cast<uint32_t>(getpid()) : 1 + kind % 16;
  telemetry::ProcessStat stat{};
  if (telemetry::read_process_stat(identity->pid, &stat)) identity->start_time = stat.start_time;
  strcpy(identity->comm, "service");
  if (kind >= 0xF0) {
    std::string name = telemetry::kPagePrefix + input->take_text(kind % 16 * 4);
    for (char& c : name)
      if (c == '/' || c == '\0') c = '.';
    return name;
  }
  return telemetry::kPagePrefix + std::to_string(identity->pid_namespace) + "." + std::to_string(identity->pid) + "." +
         std::to_string(identity->start_time);
}

void change_file(const std::string& path, Input* input, const telemetry::Identity& identity) {
  auto kind = input->take<uint8_t>();
  if (kind % 8 == 0) unlink(path.c_str());
  if (kind % 16 == 7) {
    if (symlink("/etc/passwd", path.c_str()) != 0) return;
    return;
  }
  if (kind % 16 == 15) {
    mkfifo(path.c_str(), 0600);
    return;
  }
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  std::string page = take_page(input, identity);
  HAKMEM_FUZZ_CHECK(write(fd, page.data(), page.size()) == static_cast<ssize_t>(page.size()));
  close(fd);
}

void run(Input input) {
  std::string names[kMostFiles];
  telemetry::Identity identities[kMostFiles]{};
  uint32_t files = 1 + input.take<uint8_t>() % kMostFiles;
  for (uint32_t i = 0; i < files; ++i) names[i] = folder() + "/" + take_name(&input, &identities[i]);
  exporter::PageDirectory directory(folder());
  directory.keep_stale_files();
  for (int walk = 0; walk < 2; ++walk) {
    for (uint32_t i = 0; i < files; ++i) change_file(names[i], &input, identities[i]);
    directory.refresh();
    exporter::Exposition exposition;
    exporter::add_pages(directory, static_cast<uint32_t>(getpid()), &exposition);
    exporter::add_exporter({}, directory, &exposition);
    check_exposition(exporter::serialise(exposition.take()), kMostSeries);
  }
  for (uint32_t i = 0; i < files; ++i) unlink(names[i].c_str());
}

}  // namespace
}  // namespace hakmem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hakmem::fuzz::run({data, size});
  return 0;
}
