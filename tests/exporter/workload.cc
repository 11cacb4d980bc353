// A program that provokes, one command a line on stdin, what metrics count. It
// answers each command with one line. What it needs for itself it maps, so that
// the only allocations are those asked for.
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kSlots = 64;
constexpr size_t kMaxThreads = 64;

struct Slot {
  void** pointers;
  size_t count;
};
Slot slots[kSlots];

void* map(size_t bytes) {
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) abort();
  return address;
}

void allocate(Slot& slot, size_t count, size_t bytes) {
  slot.pointers = static_cast<void**>(map(count * sizeof(void*)));
  slot.count = count;
  for (size_t i = 0; i < count; ++i) {
    slot.pointers[i] = malloc(bytes);
    if (slot.pointers[i] == nullptr) abort();
    memset(slot.pointers[i], 1, bytes);
  }
}

// Frees every `step`-th object that is still there.
void free_slot(Slot& slot, size_t step) {
  for (size_t i = 0; i < slot.count; i += step) {
    free(slot.pointers[i]);
    slot.pointers[i] = nullptr;
  }
}

// Maps memory where no account looks for it: over the end of the reservation
// of addresses, the largest mapping without access.
void hide(size_t bytes) {
  FILE* maps = fopen("/proc/self/maps", "re");
  unsigned long begin = 0;
  unsigned long end = 0;
  unsigned long largest = 0;
  unsigned long place = 0;
  char permissions[8];
  while (fscanf(maps, "%lx-%lx %7s%*[^\n]", &begin, &end, permissions) == 3)
    if (permissions[0] == '-' && end - begin > largest) largest = end - begin, place = end;
  fclose(maps);
  void* wanted = reinterpret_cast<void*>(place - (256ul << 20));
  void* address = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (address == MAP_FAILED) abort();
  memset(address, 1, bytes);
}

// Maps and touches whole huge pages; the bytes of them.
void map_huge_pages(size_t bytes) {
  constexpr uintptr_t kHugePage = 2 << 20;
  uintptr_t area = reinterpret_cast<uintptr_t>(map(bytes + kHugePage));
  void* address = reinterpret_cast<void*>((area + kHugePage - 1) & ~(kHugePage - 1));
  madvise(address, bytes, MADV_HUGEPAGE);
  memset(address, 1, bytes);
}

void free_lazily(size_t bytes) {
  void* address = map(bytes);
  madvise(address, bytes, MADV_NOHUGEPAGE);
  memset(address, 1, bytes);
  madvise(address, bytes, MADV_FREE);
}

void swap_out(size_t bytes) {
  void* address = map(bytes);
  madvise(address, bytes, MADV_NOHUGEPAGE);
  memset(address, 1, bytes);
  madvise(address, bytes, MADV_PAGEOUT);
}

// Frees all but one object in `step`.
void keep_few(Slot& slot, size_t step) {
  for (size_t i = 0; i < slot.count; ++i) {
    if (i % step == 1) continue;
    free(slot.pointers[i]);
    slot.pointers[i] = nullptr;
  }
}

template <class Body>
void in_thread(Body body) {
  pthread_t thread;
  pthread_create(
      &thread, nullptr,
      [](void* argument) -> void* {
        (*static_cast<Body*>(argument))();
        return nullptr;
      },
      &body);
  pthread_join(thread, nullptr);
}

pthread_barrier_t held;
pthread_barrier_t released;
pthread_t holders[kMaxThreads];
size_t holder_count;

// Leaves in the thread's cache what fits: 64 KiB of many size classes.
void fill_cache() {
  static thread_local void* blocks[256];
  for (size_t bytes = 256; bytes <= 32768; bytes += bytes / 8) {
    size_t count = 65536 / bytes;
    for (size_t i = 0; i < count; ++i) memset(blocks[i] = malloc(bytes), 1, bytes);
    for (size_t i = 0; i < count; ++i) free(blocks[i]);
  }
}

std::atomic<bool> caches_are_filled;

void hold_threads(size_t count) {
  holder_count = count;
  pthread_barrier_init(&held, nullptr, static_cast<unsigned>(count + 1));
  pthread_barrier_init(&released, nullptr, static_cast<unsigned>(count + 1));
  for (size_t i = 0; i < count; ++i)
    pthread_create(
        &holders[i], nullptr,
        [](void*) -> void* {
          void* volatile block = malloc(100);
          if (caches_are_filled) fill_cache();
          pthread_barrier_wait(&held);
          pthread_barrier_wait(&released);
          free(block);
          return nullptr;
        },
        nullptr);
  pthread_barrier_wait(&held);
}

void release_threads() {
  pthread_barrier_wait(&released);
  for (size_t i = 0; i < holder_count; ++i) pthread_join(holders[i], nullptr);
}

// Takes new slabs, touching a page of each, and gives them back to the kernel, again and again.
void churn(size_t rounds) {
  static void* blocks[1000];
  for (size_t round = 0; round < rounds; ++round) {
    for (void*& block : blocks) block = malloc(60'000);
    for (void* block : blocks) free(block);
    malloc_trim(0);
  }
}

// Objects that one thread allocates and another frees.
void pass_on(size_t rounds) {
  static void* blocks[20'000];
  static pthread_barrier_t turn;
  pthread_barrier_init(&turn, nullptr, 2);
  pthread_t thread;
  pthread_create(
      &thread, nullptr,
      [](void* argument) -> void* {
        for (size_t round = 0; round < *static_cast<size_t*>(argument); ++round) {
          pthread_barrier_wait(&turn);
          for (void* block : blocks) free(block);
          pthread_barrier_wait(&turn);
        }
        return nullptr;
      },
      &rounds);
  for (size_t round = 0; round < rounds; ++round) {
    for (void*& block : blocks) block = malloc(64);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
  }
  pthread_join(thread, nullptr);
}

// Threads that allocate and free huge blocks for a while, all behind one lock.
void contend() {
  static std::atomic<bool> stop;
  stop = false;
  pthread_t threads[4];
  for (pthread_t& thread : threads)
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
          while (!stop.load(std::memory_order_relaxed)) {
            void* volatile block = malloc(8 << 20);
            free(block);
          }
          return nullptr;
        },
        nullptr);
  usleep(300'000);
  stop = true;
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
}

std::atomic<int> signals_in_main;
std::atomic<int> signals_elsewhere;

void count_signal(int) { (syscall(SYS_gettid) == getpid() ? signals_in_main : signals_elsewhere).fetch_add(1); }

pid_t fork_child(size_t bytes) {
  pid_t child = fork();
  if (child != 0) return child;
  allocate(slots[kSlots - 1], bytes / 1024, 1024);
  for (;;) pause();
}

// A listening socket of the program's own; its port.
int listen_somewhere(int* fd) {
  *fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof name;
  if (bind(*fd, reinterpret_cast<sockaddr*>(&name), sizeof name) != 0 || listen(*fd, 8) != 0 ||
      getsockname(*fd, reinterpret_cast<sockaddr*>(&name), &length) != 0)
    abort();
  return ntohs(name.sin_port);
}

// Closes all descriptors as daemons do, and fills the gaps with a listening socket.
void close_descriptors_and_listen() {
  for (int fd = 3; fd < 1024; ++fd) close(fd);
  int fd;
  int port = listen_somewhere(&fd);
  for (int copy = 0; copy < 1020; ++copy) dup(fd);
  printf("%d\n", port);
  if (fork() == 0) {
    for (int i = 0; i < 20; ++i) {
      int connection = accept(fd, nullptr, nullptr);
      if (write(connection, "host\n", 5) != 5) _exit(1);
      close(connection);
    }
    _exit(0);
  }
}

// As programs do that write a title for ps over it.
void forget_environment() {
  for (char** entry = environ; *entry != nullptr; ++entry) memset(*entry, 0, strlen(*entry));
}

bool run_command(const char* verb, size_t a, size_t b, size_t c) {
  if (strcmp(verb, "alloc") == 0) {
    allocate(slots[a], b, c);
  } else if (strcmp(verb, "free") == 0) {
    free_slot(slots[a], b);
  } else if (strcmp(verb, "keep") == 0) {
    keep_few(slots[a], b);
  } else if (strcmp(verb, "thread_free") == 0) {
    in_thread([a, b] {
      free_slot(slots[a], b);
      malloc_trim(0);  // or the next thread would find it all in its cache
    });
  } else if (strcmp(verb, "thread_alloc") == 0) {
    in_thread([a, b, c] {
      allocate(slots[a], b, c);
      malloc_trim(0);  // the same
    });
  } else if (strcmp(verb, "realloc") == 0) {
    slots[a].pointers[0] = realloc(slots[a].pointers[0], b);
  } else if (strcmp(verb, "hold_threads") == 0) {
    hold_threads(a);
  } else if (strcmp(verb, "hold_caches") == 0) {
    caches_are_filled = true;
    hold_threads(a);
  } else if (strcmp(verb, "churn") == 0) {
    churn(a);
  } else if (strcmp(verb, "pass_on") == 0) {
    pass_on(a);
  } else if (strcmp(verb, "release_threads") == 0) {
    release_threads();
  } else if (strcmp(verb, "contend") == 0) {
    contend();
  } else if (strcmp(verb, "map") == 0) {
    memset(map(a), 1, a);
  } else if (strcmp(verb, "hide") == 0) {
    hide(a);
  } else if (strcmp(verb, "map_huge_pages") == 0) {
    map_huge_pages(a);
  } else if (strcmp(verb, "free_lazily") == 0) {
    free_lazily(a);
  } else if (strcmp(verb, "swap_out") == 0) {
    swap_out(a);
  } else if (strcmp(verb, "trim") == 0) {
    malloc_trim(0);
  } else if (strcmp(verb, "limit") == 0) {
    rlimit limit{a, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &limit);
  } else if (strcmp(verb, "try") == 0) {
    void* volatile block = malloc(a);
    printf("%s\n", block == nullptr ? "null" : "block");
    free(block);
    return true;
  } else if (strcmp(verb, "fork") == 0) {
    printf("%d\n", fork_child(a));
    return true;
  } else if (strcmp(verb, "reap") == 0) {
    kill(static_cast<pid_t>(a), SIGKILL);
    waitpid(static_cast<pid_t>(a), nullptr, 0);
  } else if (strcmp(verb, "forget_environment") == 0) {
    forget_environment();
  } else if (strcmp(verb, "handle_signals") == 0) {
    struct sigaction action {};
    action.sa_handler = count_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, nullptr);
  } else if (strcmp(verb, "signals") == 0) {
    printf("%d %d\n", signals_in_main.load(), signals_elsewhere.load());
    return true;
  } else if (strcmp(verb, "close_descriptors") == 0) {
    close_descriptors_and_listen();
    return true;
  } else {
    return false;
  }
  printf("done\n");
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && strcmp(arguments[1], "daemon") == 0 && fork() != 0) _exit(0);
  setvbuf(stdin, static_cast<char*>(map(4096)), _IOLBF, 4096);
  setvbuf(stdout, static_cast<char*>(map(4096)), _IOLBF, 4096);
  char* line = static_cast<char*>(map(4096));
  while (fgets(line, 4096, stdin) != nullptr) {
    char verb[64] = "";
    size_t a = 0;
    size_t b = 0;
    size_t c = 0;
    sscanf(line, "%63s %zu %zu %zu", verb, &a, &b, &c);
    if (strcmp(verb, "exit") == 0) return static_cast<int>(a);
    if (!run_command(verb, a, b, c)) printf("unknown command\n");
  }
  // A daemon has no input; it stays.
  while (count == 2) pause();
  return 0;
}
