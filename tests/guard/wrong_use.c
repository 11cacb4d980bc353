/* Does one wrong thing with a block of the heap, by name; with HAKMEM_SAMPLE_BYTES=1
   every block is a sample, and so a guarded one. Prints "done" if it lives on. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kBytes = 40, kPage = 4096 };

static char* volatile block;
static volatile char sink;

static int ends_a_page(const char* address) { return ((uintptr_t)address + 48) % kPage == 0; }
static int starts_a_page(const char* address) { return (uintptr_t)address % kPage == 0; }

/* Half of the blocks stand at the end of their page, the others at its start. */
static char* block_at(int (*is_there)(const char*)) {
  malloc(kBytes); /* so that no page beside the block's was opened after an earlier report */
  for (int i = 0; i < 100; ++i) {
    char* address = malloc(kBytes);
    if (is_there(address)) return address;
  }
  puts("no guarded block");
  exit(9);
}

static void overflow_write(void) { block_at(ends_a_page)[48] = 1; }
static void overflow_read(void) { sink = block_at(ends_a_page)[60]; }
static void overflow_found_at_free(void) {
  block = block_at(ends_a_page);
  block[kBytes] = 0;
  free(block);
}
static void underflow_write(void) { block_at(starts_a_page)[-8] = 1; }
static void underflow_found_at_free(void) {
  block = block_at(ends_a_page);
  block[-1] = 0;
  free(block);
}
static void use_after_free_read(void) {
  block = malloc(kBytes);
  free(block);
  sink = block[8];
}
static void use_after_free_write(void) {
  block = malloc(kBytes);
  free(block);
  block[0] = 1;
}
static void double_free(void) {
  block = malloc(kBytes);
  free(block);
  free(block);
}
static void realloc_after_free(void) {
  block = malloc(kBytes);
  free(block);
  errno = 0;
  if (realloc(block, 2 * kBytes) != NULL || errno != EINVAL) exit(9);
}
static void size_of_freed(void) {
  block = malloc(kBytes);
  free(block);
  sink = (char)malloc_usable_size(block);
}
static void invalid_free(void) {
  block = malloc(kBytes);
  free(block + 16);
}
static void double_free_of_a_byte(void) {
  block = malloc(1);
  free(block);
  free(block);
}
/* Faults in the pool where no block ever was: on what would be a block's page, and between two. */
static void far_write(void) { block_at(starts_a_page)[300 * kPage] = 1; }
static void far_write_between(void) { block_at(starts_a_page)[301 * kPage] = 1; }
static void far_write_before_the_next(void) { block_at(starts_a_page)[302 * kPage - 1] = 1; }
/* A fault that has nothing to do with the heap. */
static void null_read(void) { sink = *(char* volatile*)&block == NULL ? *block : 0; }

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, NULL, &blocked);
  printf("the program's handler: %p, %d %d\n", info->si_addr, sigismember(&blocked, SIGUSR1),
         sigismember(&blocked, signal));
  fflush(stdout);
  _exit(7);
}

static void handle_faults(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaction(SIGSEGV, &action, NULL);
}

/* For one fault, without what is told of it, and blocked meanwhile. */
static void on_one_fault(int signal) {
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, NULL, &blocked);
  printf("the program's handler: %d\n", sigismember(&blocked, signal));
  fflush(stdout);
  if (sink == 7) _exit(7);
}

static void handle_one_fault(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_one_fault;
  action.sa_flags = (int)SA_RESETHAND;
  sigaction(SIGSEGV, &action, NULL);
}
static void handle_one_fault_and_exit(void) {
  sink = 7;
  handle_one_fault();
}
static void ignore_faults(void) { signal(SIGSEGV, SIG_IGN); }
static void send_a_fault(void) { raise(SIGSEGV); }

/* On an alternate stack of the usual size. */
static void small_alternate_stack(void) {
  static char small[1 << 17];
  stack_t stack = {.ss_sp = small, .ss_size = (size_t)sysconf(_SC_SIGSTKSZ)};
  if (sigaltstack(&stack, NULL) != 0) exit(9);
  use_after_free_write();
}

static pthread_barrier_t start;
static void* read_freed(void* argument) {
  pthread_barrier_wait(&start);
  sink = block[8];
  return argument;
}
static void threads_at_once(void) {
  pthread_t threads[8];
  pthread_barrier_init(&start, NULL, 8);
  block = malloc(kBytes);
  free(block);
  for (int i = 0; i < 8; ++i) pthread_create(&threads[i], NULL, read_freed, NULL);
  for (int i = 0; i < 8; ++i) pthread_join(threads[i], NULL);
}

/* What is allowed: everything the size that was asked for, or told, permits. */
static void right_use(void) {
  char* blocks[600];
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 600; ++i) {
      size_t bytes = (size_t)(i * 13 % 5000);
      char* address = i % 3 == 0 ? calloc(1, bytes) : malloc(bytes);
      if (i % 3 == 1) address = realloc(address, bytes + 50), bytes += 50;
      if (malloc_usable_size(address) < bytes) exit(8);
      memset(address, 0x5a, i % 2 == 0 ? bytes : malloc_usable_size(address));
      blocks[i] = address;
    }
    for (int i = 0; i < 600; ++i) free(blocks[i * 7 % 600]);
  }
  for (size_t alignment = 16; alignment <= 4096; alignment *= 2)
    for (size_t bytes = 1; bytes < 4096; bytes += 333) {
      void* address = NULL;
      if (posix_memalign(&address, alignment, bytes) != 0 || (uintptr_t)address % alignment != 0) exit(8);
      memset(address, 1, bytes);
      free(address);
    }
}

static void right_use_in_a_child(void) {
  block = malloc(kBytes);
  pid_t child = fork();
  if (child == 0) {
    right_use();
    use_after_free_read();
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("child %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  free(block);
}

int main(int count, char** arguments) {
  static const struct {
    const char* name;
    void (*act)(void);
  } kActs[] = {
#define ACT(name) {#name, name}
      ACT(overflow_write),
      ACT(overflow_read),
      ACT(overflow_found_at_free),
      ACT(underflow_write),
      ACT(underflow_found_at_free),
      ACT(use_after_free_read),
      ACT(use_after_free_write),
      ACT(double_free),
      ACT(realloc_after_free),
      ACT(size_of_freed),
      ACT(invalid_free),
      ACT(double_free_of_a_byte),
      ACT(far_write),
      ACT(far_write_between),
      ACT(far_write_before_the_next),
      ACT(null_read),
      ACT(send_a_fault),

      ACT(small_alternate_stack),
      ACT(threads_at_once),
      ACT(right_use),
      ACT(right_use_in_a_child),
  };
  static const struct {
    const char* name;
    void (*act)(void);
  } kBefore[] = {{"handle_faults_first", handle_faults},
                 {"handle_one_fault_first", handle_one_fault},
                 {"handle_one_fault_and_exit_first", handle_one_fault_and_exit},
                 {"ignore_faults_first", ignore_faults}};
  for (size_t j = 0; count > 1 && j < sizeof kBefore / sizeof *kBefore; ++j)
    if (strcmp(arguments[1], kBefore[j].name) == 0) kBefore[j].act();
  for (int i = 0; i < 2; ++i) free(malloc(kBytes)); /* the bins of this size are filled by samples from here on */
  for (int i = 1; i < count; ++i) {
    if (strcmp(arguments[i], "handle_faults") == 0) handle_faults();
    for (size_t j = 0; j < sizeof kActs / sizeof *kActs; ++j)
      if (strcmp(arguments[i], kActs[j].name) == 0) kActs[j].act();
  }
  puts("done");
  return 0;
}
