/* Prints what a preloaded library could change in its host without being asked:
 * threads, open files, signal dispositions and masks, limits, and how many
 * thread-specific keys are left. Run by unharmed_test.py with and without the
 * preload; it knows nothing of hakmem. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void print_threads(void) {
  DIR* tasks = opendir("/proc/self/task");
  struct dirent* entry;
  int count = 0;
  while ((entry = readdir(tasks)) != NULL) count += entry->d_name[0] != '.';
  closedir(tasks);
  printf("threads %d\n", count);
}

/* The numbers in use and what kind of file each is, without opening one. */
static void print_files(void) {
  for (int number = 0; number < 1024; ++number) {
    struct stat status;
    if (fstat(number, &status) == 0) printf("file %d type %o\n", number, (unsigned)(status.st_mode & S_IFMT));
  }
}

static void print_status(void) {
  static const char* const kFields[] = {"SigPnd:",  "ShdPnd:",     "SigBlk:",      "SigIgn:", "SigCgt:",
                                        "Seccomp:", "NoNewPrivs:", "THP_enabled:", "CapEff:", "Umask:"};
  char line[512];
  FILE* status = fopen("/proc/self/status", "re");
  while (fgets(line, sizeof line, status) != NULL)
    for (size_t i = 0; i < sizeof kFields / sizeof *kFields; ++i)
      if (strncmp(line, kFields[i], strlen(kFields[i])) == 0) fputs(line, stdout);
  fclose(status);
}

static void print_limits(void) {
  for (int resource = 0; resource < RLIM_NLIMITS; ++resource) {
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) == 0)
      printf("limit %d %llu %llu\n", resource, (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
  }
  printf("dumpable %d, timer slack %d, no new privileges %d\n", prctl(PR_GET_DUMPABLE), prctl(PR_GET_TIMERSLACK),
         prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void print_keys(void) {
  pthread_key_t keys[PTHREAD_KEYS_MAX + 1];
  int count = 0;
  while (count <= PTHREAD_KEYS_MAX && pthread_key_create(&keys[count], NULL) == 0) ++count;
  printf("thread-specific keys %d\n", count);
  while (count > 0) pthread_key_delete(keys[--count]);
}

static void print_environment(void) {
  extern char** environ;
  for (char** variable = environ; *variable != NULL; ++variable)
    if (strncmp(*variable, "LD_PRELOAD=", 11) != 0) printf("environment %s\n", *variable);
}

static void print_all(const char* when) {
  printf("-- %s\n", when);
  print_threads();
  print_files();
  print_status();
  print_limits();
  print_keys();
  print_environment();
}

static void* allocate(void* argument) {
  void* blocks[2000];
  for (size_t i = 0; i < 2000; ++i) {
    blocks[i] = malloc(1 + i * 17);
    memset(blocks[i], 1, 1 + i * 17);
  }
  for (size_t i = 0; i < 2000; ++i) free(blocks[i]);
  return argument;
}

int main(void) {
  print_all("at the start");
  pthread_t threads[8];
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 8; ++i) pthread_create(&threads[i], NULL, allocate, NULL);
    for (int i = 0; i < 8; ++i) pthread_join(threads[i], NULL);
    void* huge = malloc(64 << 20);
    memset(huge, 1, 64 << 20);
    free(huge);
  }
  print_all("after allocating in threads");
  /* Long enough for whatever a library starts late. */
  usleep(1500000);
  allocate(NULL);
  print_all("after a second and a half");
  return 0;
}
