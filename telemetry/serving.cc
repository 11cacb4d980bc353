#include "telemetry/serving.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <cstring>

#include "allocator/base/environment.h"
#include "allocator/base/message.h"
#include "telemetry/growth_watch.h"
#include "telemetry/heap_profile.h"
#include "telemetry/map_reader.h"
#include "telemetry/module_interface.h"
#include "telemetry/publisher.h"
#include "telemetry/residency.h"
#include "telemetry/system.h"
#include "telemetry/transitions.h"

// These moved into libc with GLIBC_2.34. By their old versions the library runs
// on older systems too, where a program without threads may lack them: so weak.
extern "C" {
int hakmem_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) __attribute__((weak));
int hakmem_pthread_attr_setstack(pthread_attr_t*, void*, size_t) __attribute__((weak));
void* hakmem_dlopen(const char*, int) __attribute__((weak));
void* hakmem_dlsym(void*, const char*) __attribute__((weak));
char* hakmem_dlerror() __attribute__((weak));
}
#if defined(__x86_64__)
__asm__(".symver hakmem_pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver hakmem_pthread_attr_setstack, pthread_attr_setstack@GLIBC_2.2.5");
__asm__(".symver hakmem_dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver hakmem_dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver hakmem_dlerror, dlerror@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver hakmem_pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver hakmem_pthread_attr_setstack, pthread_attr_setstack@GLIBC_2.17");
__asm__(".symver hakmem_dlopen, dlopen@GLIBC_2.17");
__asm__(".symver hakmem_dlsym, dlsym@GLIBC_2.17");
__asm__(".symver hakmem_dlerror, dlerror@GLIBC_2.17");
#endif

namespace hakmem::telemetry {
namespace {

constexpr size_t kStackBytes = 1 << 20;
constexpr size_t kGuardBytes = 64 << 10;
constexpr uint32_t kMaxAncestors = 64;
constexpr size_t kMaxSockets = 32;
constexpr int kMaxOriginSeconds = 30;

enum class Role : uint8_t {
  None,      // no endpoint asked for
  Waiting,   // the thread lets the first second of life pass
  Serving,   // the endpoint answers
  Paused,    // it was stopped by a request
  Finished,  // it could not be had, or the host closed it
  Silent,    // an ancestor serves us by our page
};

// A socket of the module, with its inode: a descriptor that the host closed and
// opened anew must not be touched.
struct Socket {
  std::atomic<int> fd_plus_one;  // 0: free
  uint64_t inode;                // written before fd_plus_one
};

struct Serving {
  std::atomic<Role> role;
  std::atomic<bool> stopped;
  std::atomic<bool> unwanted;  // by a request
  // The process that read HAKMEM_LISTEN: this one, or one it was forked from.
  uint32_t origin_pid;
  uint64_t origin_start_time;
  ModuleHost host;
  Socket sockets[kMaxSockets];
};
HAKMEM_STARTUP_DATA constinit Serving serving{};

uint64_t socket_inode(int fd) {
  struct stat status;
  return raw_fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

void socket_opened(int fd) {
  for (Socket& socket : serving.sockets) {
    if (socket.fd_plus_one.load(std::memory_order_relaxed) != 0) continue;
    socket.inode = socket_inode(fd);
    socket.fd_plus_one.store(fd + 1, std::memory_order_release);
    return;
  }
}

void socket_closed(int fd) {
  for (Socket& socket : serving.sockets)
    if (socket.fd_plus_one.load(std::memory_order_relaxed) == fd + 1)
      socket.fd_plus_one.store(0, std::memory_order_release);
}

// The holder of the page, or a lone thread, only.
void set_serving_state(ServingState serving_state) {
  if (PageHeader* header = page())
    header->serving.store(static_cast<uint32_t>(serving_state), std::memory_order_release);
}

void set_serving(bool on) {
  serving.role.store(on ? Role::Serving : Role::Finished, std::memory_order_release);
  if (!acquire_page()) return;
  set_serving_state(on ? ServingState::Yes : ServingState::No);
  release_page();
}

bool is_alive() { return !serving.stopped.load(std::memory_order_relaxed) && !forked_unnoticed(); }

// Asked twice a second.
bool may_serve() {
  if (!is_alive()) return false;
  serve_beside_scrapes();
  watch_growth(clock_nanoseconds(CLOCK_MONOTONIC));
  // A program that is idle after a peak makes no calls in which memory would be given back.
  metrics::heap_view.let_time_pass();
  return !serving.unwanted.load(std::memory_order_relaxed);
}

const void* refresh(size_t* bytes) { return refresh_page(bytes); }

bool page_says_serving(uint64_t pid_namespace, uint32_t pid, uint64_t start_time) {
  char path[256];
  TextBuilder(path, sizeof path)
      .text(environment_text(Variable::kPages))
      .text("/")
      .text(kPagePrefix)
      .number(pid_namespace)
      .text(".")
      .number(pid)
      .text(".")
      .number(start_time);
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  alignas(PageHeader) unsigned char bytes[sizeof(PageHeader)];
  struct stat status;
  // In a folder that all may write to, others could say that our parent serves.
  bool is_trusted = raw_fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
                    (status.st_uid == 0 || status.st_uid == static_cast<uid_t>(syscall(SYS_geteuid)));
  bool read_all = is_trusted && pread(fd, bytes, sizeof bytes, 0) == static_cast<ssize_t>(sizeof bytes);
  close(fd);
  const auto* header = reinterpret_cast<const PageHeader*>(bytes);
  return read_all && header->magic.load(std::memory_order_relaxed) == kPageMagic &&
         header->catalogue_hash == kCatalogueHash && header->serving.load(std::memory_order_relaxed) != 0;
}

// HAKMEM_LISTEN is inherited: what a serving process starts is shown by it.
bool an_ancestor_serves() {
  uint64_t pid_namespace = own_pid_namespace();
  ProcessStat stat;
  if (!read_process_stat(static_cast<uint32_t>(syscall(SYS_getpid)), &stat)) return false;
  for (uint32_t depth = 0; depth < kMaxAncestors && stat.parent > 1; ++depth) {
    uint32_t pid = stat.parent;
    if (!read_process_stat(pid, &stat)) return false;
    if (page_says_serving(pid_namespace, pid, stat.start_time)) return true;
  }
  return false;
}

// A child forked in the first second of a process that then serves has no page
// of its parent's to read that from: not yet, or not as the other user it has
// become. So as long as the origin lives, the endpoint is the origin's.
bool origin_lives() {
  if (serving.origin_pid == static_cast<uint32_t>(syscall(SYS_getpid))) return false;
  // Its parent a child knows even where /proc hides the processes of others.
  if (serving.origin_pid == static_cast<uint32_t>(syscall(SYS_getppid))) return true;
  ProcessStat stat{};
  return read_process_stat(serving.origin_pid, &stat) && stat.start_time == serving.origin_start_time &&
         !stat.is_zombie;
}

int links_capability_library(dl_phdr_info* program, size_t, void*) {
  const ElfW(Dyn)* dynamic = nullptr;
  for (int i = 0; i < program->dlpi_phnum; ++i)
    if (program->dlpi_phdr[i].p_type == PT_DYNAMIC)
      dynamic = reinterpret_cast<const ElfW(Dyn)*>(program->dlpi_addr + program->dlpi_phdr[i].p_vaddr);
  if (dynamic == nullptr) return -1;
  uintptr_t names = 0;
  for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry)
    if (entry->d_tag == DT_STRTAB) names = entry->d_un.d_ptr;
  if (names == 0) return -1;
  if (names < program->dlpi_addr) names += program->dlpi_addr;  // where the loader leaves the entry as it was
  for (const ElfW(Dyn)* entry = dynamic; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag != DT_NEEDED) continue;
    const char* library = reinterpret_cast<const char*>(names + entry->d_un.d_val);
    if (strncmp(library, "libcap.so", 9) == 0 || strncmp(library, "libcap-ng.so", 12) == 0) return 1;
  }
  return -1;  // the first object is the program; no other is asked
}

// Capabilities are a thread's own. A program that gives some up and then changes
// its user succeeds where our thread, which glibc makes follow, is refused: glibc
// ends the process then. Entrypoints such as setpriv and capsh do that.
bool may_drop_capabilities() { return dl_iterate_phdr(links_capability_library, nullptr) == 1; }

// Path of a file beside this library; the list of mappings knows where that is.
bool path_beside_library(const char* file, char* path, size_t bytes) {
  auto here = reinterpret_cast<uintptr_t>(&path_beside_library);
  MapReader maps;
  for (MapEntry entry; maps.is_open() && maps.next(&entry);) {
    if (here < entry.begin || here >= entry.end) continue;
    const char* slash = strrchr(entry.path, '/');
    if (slash == nullptr || static_cast<size_t>(slash - entry.path) + strlen(file) + 2 > bytes) return false;
    auto folder = static_cast<size_t>(slash - entry.path) + 1;
    memcpy(path, entry.path, folder);
    strcpy(path + folder, file);
    return true;
  }
  return false;
}

void complain(const char* what, const char* detail) {
  LineBuffer line;
  line.text("hakmem: no endpoint: ").text(what).text(detail).text("\n").print();
}

void complain_of_module(const char* why) { complain("", why); }

ModuleServe load_module() {
  // /proc may be hidden; then the loader looks where it looks for any library.
  static constinit char path[4096]{};
  if (!path_beside_library(kModuleFile, path, sizeof path)) strcpy(path, kModuleFile);
  // Privately: its C++ libraries must not become the host's.
  void* module = hakmem_dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    const char* error = hakmem_dlerror != nullptr ? hakmem_dlerror() : nullptr;
    complain("", error != nullptr ? error : "the exporter module cannot be loaded");
    return nullptr;
  }
  // What the program itself, or a library of its own, defines takes the place of what the module
  // is linked with, whatever version it is of.
  void* seen = hakmem_dlsym(RTLD_DEFAULT, kModuleLibrarySymbol);
  if (seen != nullptr && seen != hakmem_dlsym(module, kModuleLibrarySymbol)) {
    complain("the program has a prometheus-cpp of its own; hakmem-exporter can show it", "");
    return nullptr;
  }
  auto serve = reinterpret_cast<ModuleServe>(hakmem_dlsym(module, kModuleServeName));
  if (serve == nullptr) complain(path, " is not the exporter module");
  return serve;
}

// After the module has returned: whether it is to serve again, when a request wants that.
bool wait_until_wanted() {
  if (!is_alive() || !serving.unwanted.load(std::memory_order_relaxed)) return false;
  serving.role.store(Role::Paused, std::memory_order_release);
  if (acquire_page()) {
    // Descendants stay silent: the endpoint is still this process's.
    set_serving_state(ServingState::Soon);
    release_page();
  }
  timespec tick{0, 500'000'000};
  while (is_alive() && !may_serve()) nanosleep(&tick, nullptr);
  return is_alive();
}

void* serving_thread(void*) {
  prctl(PR_SET_NAME, "hakmem", 0, 0, 0);
  exclude_this_thread();
  metrics::heap_view.leave_program();
  timespec second{1, 0};
  // A daemon's parent may stay until the daemon is ready.
  for (int waited = 0; waited == 0 || (waited < kMaxOriginSeconds && origin_lives()); ++waited) {
    nanosleep(&second, nullptr);
    if (!is_alive()) return nullptr;
    if (an_ancestor_serves()) break;
  }
  if (origin_lives() || an_ancestor_serves()) {
    serving.role.store(Role::Silent, std::memory_order_release);
    publish_now();  // the child may have been busy, and be idle for long
    return nullptr;
  }
  if (acquire_page()) {
    if (page() == nullptr) create_page(true, true);
    // Descendants that are about to serve see this before the module is loaded.
    set_serving_state(ServingState::Soon);
    release_page();
  }
  note_objects_before();
  ModuleServe serve = load_module();
  if (serve != nullptr) {
    note_objects_after();
    do serve(&serving.host);
    while (wait_until_wanted());
  }
  set_serving(false);
  return nullptr;
}

void start_thread() {
  if (&hakmem_pthread_create == nullptr || &hakmem_pthread_attr_setstack == nullptr || &hakmem_dlopen == nullptr ||
      &hakmem_dlsym == nullptr) {
    complain("", "this C library has threads and the loader in libraries that the program does not use");
    return;
  }
  serving.role.store(Role::Waiting, std::memory_order_release);
  // A stack of our own, so that it is known whose memory it is.
  void* area =
      mmap(nullptr, kStackBytes + 2 * kGuardBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return;
  char* stack = static_cast<char*>(area) + kGuardBytes;
  if (mprotect(stack, kStackBytes, PROT_READ | PROT_WRITE) != 0) return;
  set_serving_stack(reinterpret_cast<uintptr_t>(stack), kStackBytes);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  hakmem_pthread_attr_setstack(&attributes, stack, kStackBytes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  // The host's signals are the host's: the thread is born with all blocked.
  sigset_t all;
  sigset_t saved;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &saved);
  pthread_t thread;
  int error = hakmem_pthread_create(&thread, &attributes, serving_thread, nullptr);
  sigprocmask(SIG_SETMASK, &saved, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) complain("", "a thread cannot be started");
}

// A child whose parent did not serve yet, such as a daemon, serves itself. Runs
// after the allocator's own handler, when memory can be had again.
void start_in_child() {
  if (serving.role.load(std::memory_order_relaxed) == Role::Waiting) start_thread();
}

}  // namespace

void start_serving() {
  ListenAddress listen;
  if (!is_set(Variable::kListen) || !parse_listen_address(environment_text(Variable::kListen), &listen)) return;
  if (was_refused(Variable::kAuth)) return;  // it has had its line
  char name[16] = {};
  prctl(PR_GET_NAME, name, 0, 0, 0);
  bool named = is_set(Variable::kProgram);
  if (named ? strcmp(name, environment_text(Variable::kProgram)) != 0 : may_drop_capabilities()) return;
  serving.host = {kModuleInterface,
                  listen.address,
                  listen.port,
                  environment_text(Variable::kPages),
                  environment_text(Variable::kAuth),
                  refresh,
                  copy_profile,
                  copy_lifetimes,
                  copy_suspects,
                  socket_opened,
                  socket_closed,
                  set_serving,
                  an_ancestor_serves,
                  may_serve,
                  is_alive,
                  complain_of_module};
  ProcessStat stat{};
  serving.origin_pid = static_cast<uint32_t>(syscall(SYS_getpid));
  if (read_process_stat(serving.origin_pid, &stat)) serving.origin_start_time = stat.start_time;
  // After the thread, whose creation allocates: the allocator registers its handlers with that,
  // and in a child handlers run in the order of their registration.
  start_thread();
  pthread_atfork(nullptr, nullptr, start_in_child);
}

void leave_serving_to_parent() {
  for (Socket& socket : serving.sockets) {
    int fd = socket.fd_plus_one.load(std::memory_order_relaxed) - 1;
    if (fd >= 0 && socket_inode(fd) == socket.inode) close(fd);
    socket.fd_plus_one.store(0, std::memory_order_relaxed);
  }
  Role role = serving.role.load(std::memory_order_relaxed);
  if (role == Role::Serving || role == Role::Paused) serving.role.store(Role::Silent, std::memory_order_relaxed);
}

EndpointState endpoint_state() {
  switch (serving.role.load(std::memory_order_acquire)) {
    case Role::Waiting:
    case Role::Serving:
    case Role::Paused: return serving.unwanted.load(std::memory_order_relaxed) ? EndpointState::Off : EndpointState::On;
    default: return EndpointState::None;
  }
}

void want_endpoint(bool on) { serving.unwanted.store(!on, std::memory_order_relaxed); }

bool endpoint_is_coming() { return serving.role.load(std::memory_order_relaxed) == Role::Waiting; }

void stop_serving() { serving.stopped.store(true, std::memory_order_relaxed); }

}  // namespace hakmem::telemetry
