/* What the programs of misuse share. A program is a table of cases, each of
 * which misuses the heap in one way:
 *
 *     CASE(name, EXPECTED, WHEN) { ... }
 *     CASE_OF(name, EXPECTED, WHEN, HARDENED, HARDENED_WHEN) { ... }, where the hardened build differs
 *
 *   EXPECTED  the message that hakmem prints; NOTHING where there is nothing to notice;
 *             INSIDE: INVALID, or CORRUPTED of a neighbour that was written to through
 *             the wrong pointer when that had been handed out;
 *             FAULT: no message, but SIGSEGV; SKIP: not run, nothing is promised
 *   WHEN      NOW: before the case returns; LATER: while the program goes on or ends
 *
 * `program --list` prints the table, `program NAME` runs one case and then goes
 * on for a while as an ordinary program. The test (misuse_test.py) holds what it
 * prints and its exit status against the table. Compiled with -fno-builtin: the
 * compiler must not know what malloc does. */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

struct misuse_case {
  const char* name;
  const char* expected;
  const char* when;
  const char* hardened; /* as `expected` */
  const char* hardened_when;
  void (*run)(void);
};

#define CASE_OF(name, expected, when, hardened, hardened_when)                                                \
  static void misuse_##name(void);                                                                            \
  __attribute__((section("misuse_cases"), used)) static const struct misuse_case* const misuse_entry_##name = \
      &(const struct misuse_case){#name, #expected, #when, #hardened, #hardened_when, misuse_##name};         \
  static void misuse_##name(void)
#define CASE(name, expected, when) CASE_OF(name, expected, when, expected, when)
/* The hardened build knows where blocks begin. */
#define CASE_INSIDE(name) CASE_OF(name, INSIDE, LATER, INVALID, NOW)
/* There a block waits before it is handed out again, and is looked at then or at the end. */
#define CASE_WRITTEN(name) CASE_OF(name, CORRUPTED, NOW, CORRUPTED, LATER)

enum { KIB = 1024, MIB = 1024 * 1024 };

/* Out of the compiler's sight, which else warns of just what is done here on purpose. */
void* hide(const void* pointer);

/* Prints the pointer that the message has to name; the last one counts. */
void* announce(const void* pointer);

/* As an ordinary program would, with blocks of many sizes. */
void go_on(void);

/* Runs `body` with `argument` in a thread of its own, and waits for its end. */
void in_thread(void* (*body)(void*), void* argument);

int misuse_main(int argc, char** argv);

/* Of C23; free() where the allocator has none. */
void call_free_sized(void* pointer, size_t bytes);
void call_free_aligned_sized(void* pointer, size_t alignment, size_t bytes);

#ifdef __cplusplus
}
#endif
