// Hooks into the life of threads and of the process.
#pragma once

namespace hakmem {

// Calls `at_exit` when the calling thread ends. Takes none of the process's
// thread-specific keys. May allocate.
void register_thread_exit(void (*at_exit)(void*));

// Whether the caller is the thread that the process started with.
bool is_first_thread();

// As pthread_atfork, without its symbol version.
void register_fork_handlers(void (*prepare)(), void (*parent)(), void (*child)());

}  // namespace hakmem
