// clang's thread-safety analysis; empty for other compilers.
#pragma once

#if defined(__clang__)
#define HAKMEM_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define HAKMEM_THREAD_ANNOTATION(x)
#endif

#define HAKMEM_CAPABILITY(name) HAKMEM_THREAD_ANNOTATION(capability(name))
#define HAKMEM_SCOPED_CAPABILITY HAKMEM_THREAD_ANNOTATION(scoped_lockable)
#define HAKMEM_GUARDED_BY(lock) HAKMEM_THREAD_ANNOTATION(guarded_by(lock))
#define HAKMEM_REQUIRES(lock) HAKMEM_THREAD_ANNOTATION(requires_capability(lock))
#define HAKMEM_ACQUIRE(...) HAKMEM_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define HAKMEM_TRY_ACQUIRE(result) HAKMEM_THREAD_ANNOTATION(try_acquire_capability(result))
#define HAKMEM_RELEASE(...) HAKMEM_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define HAKMEM_NO_THREAD_ANALYSIS HAKMEM_THREAD_ANNOTATION(no_thread_safety_analysis)
