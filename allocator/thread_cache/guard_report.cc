// Faults in the pool of guarded samples, and their reports. What runs in the
// handler takes no lock and needs little stack: the host's alternate stack may be
// as small as the kernel permits.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>

#include "allocator/base/environment.h"
#include "allocator/base/message.h"
#include "allocator/metrics/counters.h"
#include "allocator/thread_cache/guard.h"
#include "allocator/thread_cache/thread_cache.h"

namespace hakmem {
namespace {

using metrics::MemoryError;

constinit struct sigaction host_action {};
constinit std::atomic<bool> is_reporting{false};
constexpr int kLongestWait = 5000;  // milliseconds
// The stack of now; too large for a small alternate stack.
constinit GuardStack access_stack{};

// One report at a time, so that their lines do not mix, and none is cut off by a thread
// that ends the process for the same error.
class ReportScope {
 public:
  ReportScope() {
    // Whoever waits for long does so for a thread that has ended meanwhile, or for itself.
    for (int i = 0; i < kLongestWait && is_reporting.exchange(true, std::memory_order_acquire); ++i) {
      timespec millisecond{0, 1'000'000};
      nanosleep(&millisecond, nullptr);
    }
  }
  ~ReportScope() { is_reporting.store(false, std::memory_order_release); }
  ReportScope(const ReportScope&) = delete;
  ReportScope& operator=(const ReportScope&) = delete;
};

// "written by thread 4711:" and its frames. The first is of an instruction that has not
// been done yet where it `is_interrupted`; else frames are what calls return to.
void print_stack(const char* title, const GuardStack& stack, bool is_interrupted, LineBuffer* buffer) {
  if (stack.thread == 0) return;
  LineBuffer& line = *buffer;
  line.text("hakmem:   ").text(title).text(" by thread ").number(stack.thread);
  line.text(stack.count == 0 ? ", whose stack is not known\n" : ":\n").print();
  for (uint32_t i = 0; i < stack.count; ++i) {
    uintptr_t code = stack.frames[i] - (is_interrupted && i == 0 ? 0 : 1);
    line.text("hakmem:     #").number(i).text(" ").hex(code);
    if (metrics::hooks.name_code != nullptr) metrics::hooks.name_code(code, &line);
    line.text("\n").print();
  }
}

// "8 bytes into a block of 40 bytes at 0x..."
void print_place(LineBuffer* line, uintptr_t address, const GuardSlot& slot) {
  if (slot.state == GuardSlot::State::kUnused) {
    line->text("where no block ever was");
    return;
  }
  uintptr_t end = slot.address + slot.bytes;
  uintptr_t distance = address < slot.address ? slot.address - address
                       : address >= end       ? address - end
                                              : address - slot.address;
  const char* side = address < slot.address ? "before" : address >= end ? "behind the end of" : "into";
  if (distance == 0)
    line->text(address >= end ? "just behind" : "at the start of");
  else
    line->number(distance).text(distance == 1 ? " byte " : " bytes ").text(side);
  line->text(" a block of ").number(slot.bytes).text(slot.bytes == 1 ? " byte at " : " bytes at ").hex(slot.address);
}

// Prints the stack of now: from the instruction that faulted, without the frames of this handler.
void print_access(const GuardError& error, LineBuffer* line) {
  GuardStack& stack = access_stack;
  take_stack(&stack);
  uint32_t first = 0;
  while (error.code != 0 && first < stack.count && stack.frames[first] != error.code) ++first;
  if (error.code != 0 && first == stack.count) {
    stack.frames[0] = error.code;
    stack.count = 1;
  } else {
    stack.count -= first;
    memmove(stack.frames, stack.frames + first, stack.count * sizeof stack.frames[0]);
  }
  print_stack(error.title, stack, error.code != 0, line);
}

// With a ReportScope.
void report_memory_error(const GuardError& error, const GuardSlot& slot) {
  constexpr const char* kTitles[] = {"overflow", "underflow", "use after free", "double free", "invalid free"};
  static_assert(sizeof kTitles / sizeof kTitles[0] == metrics::kCountOf<MemoryError>);
  metrics::count<metrics::Metric::kMemoryErrors>(thread_state.cache->shard, static_cast<uint32_t>(error.kind), 1);
  LineBuffer line;
  line.text("hakmem: ").text(kTitles[static_cast<size_t>(error.kind)]).text(": ").text(error.what).text(" ");
  line.hex(error.address).text(", ");
  print_place(&line, error.address, slot);
  line.text("\n").print();
  print_access(error, &line);
  print_stack("allocated", slot.allocation, false, &line);
  print_stack("freed", slot.free, false, &line);
}

// What a fault at an address of the pool means.
struct Fault {
  MemoryError kind;
  GuardSlot* slot;  // null: no block was ever near
};

Fault classify(uintptr_t address) {
  size_t page = (address - guard_pool.base) / kPageBytes;
  GuardSlot* slots = guard_pool.slots;
  auto was_used = [&](size_t slot) { return slot < kGuardSlots && slots[slot].state != GuardSlot::State::kUnused; };
  if (page % 2 == 1) return {MemoryError::UseAfterFree, was_used(page / 2) ? &slots[page / 2] : nullptr};
  // Between two blocks: the fault belongs to the nearer one.
  size_t after = page / 2;
  size_t before = after - 1;
  bool is_overflow = address % kPageBytes < kPageBytes / 2 ? was_used(before) : !was_used(after);
  size_t slot = is_overflow ? before : after;
  if (!was_used(slot)) return {MemoryError::Overflow, nullptr};
  return {is_overflow ? MemoryError::Overflow : MemoryError::Underflow, &slots[slot]};
}

GuardError error_at(const Fault& fault, uintptr_t address, const void* context) {
#if defined(__x86_64__)
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  auto code = static_cast<uintptr_t>(registers[REG_RIP]);
  if ((registers[REG_ERR] & 2) != 0) return {fault.kind, "write at", address, "written", code};
  return {fault.kind, "read at", address, "read", code};
#else
  (void)context;
  return {fault.kind, "access to", address, "used", 0};
#endif
}

bool goes_on_after_error() { return environment_text(Variable::kOnError)[0] != 'a'; }

// Reports a fault in the pool. Whether the access may be tried again.
bool handle_fault(uintptr_t address, const void* context) {
  Fault fault = classify(address);
  if (fault.slot == nullptr) return false;
  {
    ReportScope scope;
    if (!fault.slot->was_reported.exchange(true, std::memory_order_relaxed))
      report_memory_error(error_at(fault, address, context), *fault.slot);
  }
  if (!goes_on_after_error()) return false;
  return mprotect(reinterpret_cast<void*>(address & ~(kPageBytes - 1)), kPageBytes, PROT_READ | PROT_WRITE) == 0;
}

// As the kernel would call the host's handler, but for an alternate stack that it did not ask for.
void call_host(int signal, siginfo_t* info, void* context) {
  struct sigaction host = host_action;
  if ((host.sa_flags & static_cast<int>(SA_RESETHAND)) != 0) host_action.sa_handler = SIG_DFL;
  sigset_t mask = host.sa_mask;
  sigprocmask(SIG_BLOCK, &mask, nullptr);  // until this handler returns
  if ((host.sa_flags & SA_NODEFER) != 0) {
    sigemptyset(&mask);
    sigaddset(&mask, signal);
    sigprocmask(SIG_UNBLOCK, &mask, nullptr);
  }
  (host.sa_flags & SA_SIGINFO) != 0 ? host.sa_sigaction(signal, info, context) : host.sa_handler(signal);
}

void pass_on(int signal, siginfo_t* info, void* context) {
  bool is_sent = info->si_code <= 0;
  if (host_action.sa_handler != SIG_DFL && host_action.sa_handler != SIG_IGN) return call_host(signal, info, context);
  if (is_sent && host_action.sa_handler == SIG_IGN) return;
  // The access faults again, at the same place, and the kernel ends the process there.
  // A signal that somebody sent comes once more as soon as this handler returns.
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  sigaction(signal, &by_default, nullptr);
  if (is_sent) syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  int saved_errno = errno;
  auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  bool is_ours = info->si_code > 0 && guard_pool.contains(address);
  bool is_done = is_ours && handle_fault(address, context);
  errno = saved_errno;
  if (!is_done) pass_on(signal, info, context);
}

}  // namespace

void install_fault_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGSEGV, nullptr, &host_action) == 0) sigaction(SIGSEGV, &action, nullptr);
}

void take_stack(GuardStack* stack) {
  stack->thread = static_cast<uint32_t>(syscall(SYS_gettid));
  stack->count = 0;
  if (metrics::hooks.capture_stack != nullptr)
    stack->count = static_cast<uint32_t>(metrics::hooks.capture_stack(stack->frames, kGuardFrames));
}

void report_at_call(const GuardError& error, const GuardSlot& slot) {
  {
    ReportScope scope;
    report_memory_error(error, slot);
  }
  if (!goes_on_after_error()) abort();
}

}  // namespace hakmem
