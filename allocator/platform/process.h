// Hooks into the life of threads and of the process.
#pragma once

namespace hakmem {

// Says what is called when a thread that asked for it ends: `at_exit`, after
// the destructors of all other thread-specific keys that can be waited for.
// Once, before the first watch_thread_exit().
void set_thread_exit(void (*at_exit)());

// Asks for it, for the calling thread. Takes no lock of the dynamic linker and,
// but for a process with dozens of keys, does not allocate.
void watch_thread_exit();

// A number of the processor that the caller runs on, now; negative where it cannot be known. Keeps errno.
int current_processor();

// As pthread_atfork, without its symbol version.
void register_fork_handlers(void (*prepare)(), void (*parent)(), void (*child)());

}  // namespace hakmem
