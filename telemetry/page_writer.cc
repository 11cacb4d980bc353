#include "telemetry/page_writer.h"

#include <errno.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/statfs.h>

#include <cstring>

#include "allocator/base/build_profile.h"
#include "allocator/base/environment.h"
#include "allocator/base/message.h"
#include "allocator/metrics/counters.h"
#include "allocator/metrics/heap_view.h"
#include "telemetry/page_sweep.h"
#include "telemetry/publication.h"
#include "telemetry/system.h"

#ifndef HAKMEM_VERSION
#define HAKMEM_VERSION "0"
#endif

namespace hakmem::telemetry {
namespace {

using metrics::kShardSlots;
using Sink = metrics::SinkWords<metrics::CounterSink>;

constexpr uint64_t kBusyBytes = 1 << 20;
constexpr uint64_t kLeastLargeBytes = 256 << 10;
constexpr uint64_t kLargeDirectory = uint64_t{1} << 30;
// One of so many new pages looks after those of ended processes.
constexpr uint64_t kSweepInterval = 16;
// Mappings of a page that grew stay, as a thread may still be adding to one.
constexpr size_t kMaxMappings = 6;

struct Mapping {
  void* address;
  size_t bytes;
};

struct Writer {
  std::atomic<PageHome> home;
  Mapping mappings[kMaxMappings];  // oldest first; the last one is in use
  size_t mapping_count;
  char path[256];
};
HAKMEM_STARTUP_DATA constinit Writer writer{};

const char* reason(int error) {
  switch (error) {
    case ENOENT: return "it does not exist";
    case ENOTDIR: return "it is not a directory";
    case ENOSPC: return "too little of it is free";
    case EDQUOT: return "the quota is used up";
    case EACCES:
    case EPERM: return "permission denied";
    case EEXIST: return "a file of another user has the name of its page";
    case EROFS: return "it is read-only";
    case EMFILE:
    case ENFILE: return "no file descriptor is free";
    case EOPNOTSUPP: return "its file system cannot allocate blocks ahead";
    default: return "a system call failed";
  }
}

// Whether pages may take `wanted` more bytes of a directory: they may hold 5 %
// of it and must leave 25 %. In a container /dev/shm is 64 MiB and belongs to
// its database.
bool directory_has_room(int directory, uint64_t own_namespace, size_t wanted) {
  struct statfs fs;
  if (fstatfs(directory, &fs) != 0) return false;
  auto block = static_cast<uint64_t>(fs.f_bsize);
  uint64_t total = fs.f_blocks * block;
  if (total == 0) return true;  // a tmpfs without a limit
  errno = ENOSPC;
  if (fs.f_bavail * block < total / 4 + wanted) return false;
  if (total > kLargeDirectory) return true;  // thousands of pages fit: not worth a walk
  if (pages_held(directory).bytes + wanted <= total / 20) return true;
  sweep_pages(directory, own_namespace, 0);
  errno = ENOSPC;
  return pages_held(directory).bytes + wanted <= total / 20;
}

int open_directory() { return open(environment_text(Variable::kPages), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

// Blocks are allocated before the mapping is written to: a full file system
// then is an error here and not a SIGBUS later.
void* map_file(int fd, size_t bytes) {
  int result;
  do result = fallocate(fd, 0, 0, static_cast<off_t>(bytes));
  while (result != 0 && errno == EINTR);
  if (result != 0) return nullptr;
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  return address == MAP_FAILED ? nullptr : address;
}

void make_path(const Identity& identity) {
  TextBuilder(writer.path, sizeof writer.path)
      .text(environment_text(Variable::kPages))
      .text("/")
      .text(kPagePrefix)
      .number(identity.pid_namespace)
      .text(".")
      .number(identity.pid)
      .text(".")
      .number(identity.start_time);
}

void read_identity(Identity* identity) {
  identity->pid = static_cast<uint32_t>(syscall(SYS_getpid));
  identity->pid_namespace = own_pid_namespace();
  ProcessStat stat{};
  if (read_own_stat(&stat)) identity->start_time = stat.start_time;
  if (getrandom(&identity->nonce, sizeof identity->nonce, GRND_NONBLOCK) != sizeof identity->nonce)
    identity->nonce = clock_nanoseconds(CLOCK_MONOTONIC) ^ reinterpret_cast<uintptr_t>(identity);
  if (read_small_file("/proc/self/comm", identity->comm, sizeof identity->comm) > 0)
    identity->comm[strcspn(identity->comm, "\n")] = '\0';
}

// A new file, or null with errno.
void* make_file(const Identity& identity, uint32_t shards) {
  int directory = open_directory();
  if (directory < 0) return nullptr;
  if (identity.nonce % kSweepInterval == 0) sweep_as_needed(directory, identity.pid_namespace);
  bool has_room = directory_has_room(directory, identity.pid_namespace, page_bytes(shards));
  int reason_of_refusal = errno;
  close(directory);
  errno = reason_of_refusal;
  if (!has_room) return nullptr;
  make_path(identity);
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  int fd = open(writer.path, kFlags, 0600);
  if (fd < 0 && errno == EEXIST) {
    // Pid and start time are ours: the page of the program that called exec.
    unlink(writer.path);
    fd = open(writer.path, kFlags, 0600);
  }
  if (fd < 0) return nullptr;
  void* address = map_file(fd, page_bytes(shards));
  int error = errno;
  if (address == nullptr) unlink(writer.path);
  close(fd);
  errno = error;
  return address;
}

void fill_header(PageHeader* header, const Identity& identity, uint32_t shards) {
  header->layout_version = kLayoutVersion;
  header->header_bytes = sizeof(PageHeader);
  header->catalogue_hash = kCatalogueHash;
  header->identity = identity;
  strncpy(header->version, HAKMEM_VERSION, sizeof header->version - 1);
  strncpy(header->build, kBuild.name, sizeof header->build - 1);
  header->shard_count.store(shards, std::memory_order_relaxed);
  for (uint32_t size_class = 0; size_class < metrics::kSizeClassCount; ++size_class)
    header->class_bytes[size_class] = static_cast<uint32_t>(metrics::heap_view.class_bytes(size_class));
  Slot* figures = publish_slots(header);
  for_each_published_gauge(
      [&](uint32_t slot) { figures[slot].store(encode_gauge(kNotMeasured), std::memory_order_relaxed); });
  prepare_control(control(header));
}

// One for each thread, and one for all others.
uint32_t shards_for(uint32_t threads) {
  uint32_t shards = kFirstShards;
  while (shards < kMaxShards && shards <= threads) shards *= 2;
  return shards;
}

uint32_t count_threads() {
  uint32_t threads = 0;
  metrics::heap_view.visit_threads(
      [](void* count, const metrics::ThreadCacheView& cache) { *static_cast<uint32_t*>(count) += cache.is_thread; },
      &threads);
  return threads;
}

void use(void* address, size_t bytes) { writer.mappings[writer.mapping_count++] = {address, bytes}; }

}  // namespace

PageHome page_home() { return writer.home.load(std::memory_order_acquire); }

PageHeader* page() {
  return writer.mapping_count == 0 ? nullptr
                                   : static_cast<PageHeader*>(writer.mappings[writer.mapping_count - 1].address);
}

size_t current_page_bytes() { return writer.mapping_count == 0 ? 0 : writer.mappings[writer.mapping_count - 1].bytes; }

bool counters_look_busy() {
  using metrics::Metric;
  const Slot* slots = metrics::counter_sink.shards.load(std::memory_order_acquire);
  auto counted = [&](uint32_t slot) { return slots[slot].load(std::memory_order_relaxed); };
  constexpr uint32_t kSources = metrics::kCountOf<metrics::RefillSource>;
  constexpr uint32_t kAllocations = metrics::kFirstSlot<Metric::kAllocations>;
  uint64_t bytes =
      (counted(kAllocations + metrics::kLargeClass) + counted(kAllocations + metrics::kHugeClass)) * kLeastLargeBytes;
  for (uint32_t size_class = 0; size_class < metrics::kSlabClassCount; ++size_class) {
    uint64_t refilled = 0;
    for (uint32_t source = 0; source < kSources; ++source)
      refilled += counted(metrics::kFirstSlot<Metric::kRefillObjects> + size_class * kSources + source);
    uint64_t objects = std::max(refilled, counted(kAllocations + size_class));
    if (objects != 0) bytes += objects * metrics::heap_view.class_bytes(size_class);
  }
  return bytes >= kBusyBytes;
}

void create_page(bool report, bool private_instead) {
  // A program with more rights than who started it publishes nothing.
  if (getauxval(AT_SECURE) != 0) {
    writer.home.store(PageHome::Refused, std::memory_order_release);
    return;
  }
  Identity identity{};
  read_identity(&identity);
  uint32_t shards = shards_for(count_threads());
  void* address = make_file(identity, shards);
  PageHome home = PageHome::File;
  if (address == nullptr) {
    if (report) {
      LineBuffer line;
      line.text("hakmem: no stats page in ").text(environment_text(Variable::kPages)).text(": ").text(reason(errno));
      line.text(private_instead ? "; the endpoint works, hakmem-exporter does not see this process\n"
                                : "; hakmem-exporter does not see this process\n");
      line.print();
    }
    writer.path[0] = '\0';
    home = PageHome::Refused;
    if (private_instead) {
      address = mmap(nullptr, page_bytes(shards), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (address == MAP_FAILED) {
        address = nullptr;
      } else {
        home = PageHome::Private;
      }
    }
  }
  if (address != nullptr) {
    auto* header = static_cast<PageHeader*>(address);
    fill_header(header, identity, shards);
    use(address, page_bytes(shards));
    Sink::grow(metrics::counter_sink, shard_slots(address), shards);
    drain_initial_shard();
    // Only now, with the counters of before in it, may the page be read.
    Publication<>::finish(header->magic, kPageMagic);
  }
  writer.home.store(home, std::memory_order_release);
}

void grow_page(uint32_t threads) {
  PageHeader* header = page();
  if (header == nullptr || page_home() != PageHome::File) return;
  uint32_t shards = header->shard_count.load(std::memory_order_relaxed);
  uint32_t wanted = std::max(shards, shards_for(threads));
  if (wanted == shards || writer.mapping_count == kMaxMappings) return;
  size_t bytes = page_bytes(wanted);
  int directory = open_directory();
  bool has_room =
      directory >= 0 && directory_has_room(directory, header->identity.pid_namespace, bytes - current_page_bytes());
  if (directory >= 0) close(directory);
  if (!has_room) return;
  int fd = open(writer.path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  void* address = nullptr;
  struct stat status;
  // Somebody may have removed the file and put another one there.
  PageHeader on_disk;
  if (raw_fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) == current_page_bytes() &&
      pread(fd, static_cast<void*>(&on_disk), sizeof on_disk, 0) == static_cast<ssize_t>(sizeof on_disk) &&
      on_disk.identity.nonce == header->identity.nonce)
    address = map_file(fd, bytes);
  close(fd);
  if (address == nullptr) return;
  use(address, bytes);
  static_cast<PageHeader*>(address)->shard_count.store(wanted, std::memory_order_release);
  Sink::grow(metrics::counter_sink, shard_slots(address), wanted);
}

void drain_initial_shard() {
  PageHeader* header = page();
  if (header == nullptr) return;
  Sink::drain(metrics::initial_shard, shard_slots(header), kShardSlots);
}

void abandon_page() {
  metrics::counter_sink.shard_mask.store(0, std::memory_order_release);
  metrics::counter_sink.shards.store(metrics::initial_shard, std::memory_order_release);
  for (Slot& slot : metrics::initial_shard) slot.store(0, std::memory_order_relaxed);
  // Thread caches hold pointers into the page: what is counted through one is the
  // parent's no more, and a child that bypassed the fork handlers must not fault.
  for (size_t i = 0; i < writer.mapping_count; ++i)
    (void)mmap(writer.mappings[i].address, writer.mappings[i].bytes, PROT_READ | PROT_WRITE,
               MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  writer.mapping_count = 0;
  writer.path[0] = '\0';
  writer.home.store(PageHome::None, std::memory_order_release);
}

void remove_page() {
  if (page_home() == PageHome::File && writer.path[0] != '\0') unlink(writer.path);
}

void visit_page_mappings(void (*visit)(void*, uintptr_t, size_t), void* context) {
  for (size_t i = 0; i < writer.mapping_count; ++i)
    visit(context, reinterpret_cast<uintptr_t>(writer.mappings[i].address), writer.mappings[i].bytes);
}

}  // namespace hakmem::telemetry
