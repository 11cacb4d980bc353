// How much memory the process's container may have.
#pragma once

#include <cstddef>

namespace hakmem {

// Bytes, by the files of the cgroup file system that stand at its root: there a container finds its own
// group's, of version 2 or 1. SIZE_MAX where none has a limit, and outside of containers, where a group that
// has one stands further down. A few system calls; errno is kept. Any thread.
size_t container_memory_limit();

}  // namespace hakmem
