#include "telemetry/unwind.h"

#include <dlfcn.h>
#include <link.h>
#include <ucontext.h>

#include <atomic>
#include <bit>

#include "telemetry/unwind_rules.h"

extern "C" {
void* hakmem_loaded_dlsym(void*, const char*) __attribute__((weak));
}
#if defined(__x86_64__)
// As in serving.cc: by its old version, and weak.
__asm__(".symver hakmem_loaded_dlsym, dlsym@GLIBC_2.2.5");
#endif

namespace hakmem::telemetry {
namespace {

// As <dlfcn.h> of glibc 2.35 has it.
struct FoundObject {
  unsigned long long flags;
  void* map_start;
  void* map_end;
  struct link_map* link_map;
  void* eh_frame;
  unsigned long long reserved[7];
};
using FindObject = int (*)(void* address, FoundObject* result);

struct Object {
  uintptr_t begin;
  uintptr_t end;
  const void* eh_frame_hdr;  // null: it has none
};

constexpr size_t kMaxObjects = 512;
constexpr size_t kCacheRows = 4096;
// More than any frame has; what claims to be larger is no frame.
constexpr uintptr_t kMaxFrameBytes = 16 << 20;

// Rules by address. The key is the address and the rules in one: what two threads
// wrote at once fits together or is not found.
struct CachedRules {
  std::atomic<uint64_t> key;
  std::atomic<uint64_t> rules;
};

struct Unwinder {
  Object objects[kMaxObjects];
  std::atomic<size_t> object_count;  // 0: not prepared
  Object self;
  FindObject find_object;
  CachedRules cache[kCacheRows];
};
constinit Unwinder unwinder{};

struct Registers {
  uintptr_t rip, rsp, rbp, rbx;
};

int add_object(dl_phdr_info* info, size_t, void* context) {
  auto& count = *static_cast<size_t*>(context);
  if (count == kMaxObjects) return 1;
  Object object{UINTPTR_MAX, 0, nullptr};
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    uintptr_t start = info->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_GNU_EH_FRAME) object.eh_frame_hdr = reinterpret_cast<const void*>(start);
    if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
    if (start < object.begin) object.begin = start;
    if (start + header.p_memsz > object.end) object.end = start + header.p_memsz;
  }
  if (object.begin >= object.end) return 0;
  size_t place = count++;
  for (; place > 0 && unwinder.objects[place - 1].begin > object.begin; --place)
    unwinder.objects[place] = unwinder.objects[place - 1];
  unwinder.objects[place] = object;
  auto here = reinterpret_cast<uintptr_t>(&capture_stack);
  if (here >= object.begin && here < object.end) unwinder.self = object;
  return 0;
}

const Object* find_object(uintptr_t address) {
  const Object* first = unwinder.objects;
  for (size_t left = unwinder.object_count.load(std::memory_order_acquire); left > 0;) {
    size_t half = left / 2;
    if (first[half].begin <= address) {
      first += half + 1;
      left -= half + 1;
    } else {
      left = half;
    }
  }
  if (first == unwinder.objects || address >= first[-1].end) return nullptr;
  return first - 1;
}

// An object that was loaded later.
const void* find_eh_frame_hdr(uintptr_t address) {
  FoundObject found{};
  if (unwinder.find_object == nullptr || unwinder.find_object(reinterpret_cast<void*>(address), &found) != 0)
    return nullptr;
  return found.eh_frame;
}

UnwindRules rules_at(uintptr_t address) {
  CachedRules& cached = unwinder.cache[(address ^ address >> 12) % kCacheRows];
  uint64_t word = cached.rules.load(std::memory_order_relaxed);
  if ((cached.key.load(std::memory_order_relaxed) ^ word) == address) return std::bit_cast<UnwindRules>(word);
  const Object* object = find_object(address);
  const void* header = object != nullptr ? object->eh_frame_hdr : find_eh_frame_hdr(address);
  if (header == nullptr) return {};
  UnwindRules rules = find_rules(address, header);
  if (object != nullptr) {
    word = std::bit_cast<uint64_t>(rules);
    cached.rules.store(word, std::memory_order_relaxed);
    cached.key.store(address ^ word, std::memory_order_relaxed);
  }
  return rules;
}

// `address` follows from the stack pointer, by the unwind tables.
uintptr_t word_at(uintptr_t address) {
  return *reinterpret_cast<const uintptr_t*>(address);  // NOLINT(clang-analyzer-core.NullDereference)
}

uintptr_t restored(Saved saved, int8_t words, uintptr_t now, uintptr_t cfa, uintptr_t rbp) {
  switch (saved) {
    case Saved::InRegister: return now;
    case Saved::BelowCfa: return word_at(cfa + static_cast<uintptr_t>(intptr_t{words} * 8));
    case Saved::AtRbp: return word_at(rbp);
    case Saved::Lost: return 0;
  }
  return 0;
}

#if defined(__x86_64__)
void leave_signal_frame(Registers* registers) {
  const auto* context = reinterpret_cast<const ucontext_t*>(registers->rsp);
  const auto& saved = context->uc_mcontext.gregs;
  *registers = {static_cast<uintptr_t>(saved[REG_RIP]), static_cast<uintptr_t>(saved[REG_RSP]),
                static_cast<uintptr_t>(saved[REG_RBP]), static_cast<uintptr_t>(saved[REG_RBX])};
}

__attribute__((always_inline)) inline Registers registers_here() {
  Registers registers;
  __asm__ volatile("lea 0(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2\n\tmov %%rbx, %3"
                   : "=&r"(registers.rip), "=&r"(registers.rsp), "=&r"(registers.rbp), "=&r"(registers.rbx));
  return registers;
}
#else
void leave_signal_frame(Registers* registers) { *registers = {}; }
inline Registers registers_here() { return {}; }
#endif

// Moves to the caller; false at the end of the stack.
bool step(Registers* registers, bool* is_interrupted) {
  // A call may be the last instruction of its function.
  UnwindRules rules = rules_at(*is_interrupted ? registers->rip : registers->rip - 1);
  *is_interrupted = false;
  auto offset = static_cast<uintptr_t>(intptr_t{rules.cfa_words} * 8);
  uintptr_t cfa = 0;
  switch (rules.cfa) {
    case Cfa::Unknown: return false;
    case Cfa::Rsp: cfa = registers->rsp + offset; break;
    case Cfa::Rbp: cfa = registers->rbp == 0 ? 0 : registers->rbp + offset; break;
    case Cfa::Rbx: cfa = registers->rbx == 0 ? 0 : registers->rbx + offset; break;
    case Cfa::LinkageTable: cfa = registers->rsp + ((registers->rip & 15) >= 11 ? 16 : 8); break;
    case Cfa::BehindRbp:
      if (registers->rbp <= registers->rsp || registers->rbp - registers->rsp > kMaxFrameBytes) return false;
      cfa = word_at(registers->rbp + offset);
      break;
    case Cfa::SignalFrame:
      leave_signal_frame(registers);
      *is_interrupted = true;
      return registers->rip != 0;
  }
  if (cfa <= registers->rsp || cfa - registers->rsp > kMaxFrameBytes || cfa % 8 != 0) return false;
  uintptr_t rbp = registers->rbp;
  registers->rbx = restored(rules.rbx, rules.rbx_words, registers->rbx, cfa, rbp);
  registers->rbp = restored(rules.rbp, rules.rbp_words, rbp, cfa, rbp);
  registers->rip = word_at(cfa - 8);
  registers->rsp = cfa;
  return registers->rip != 0;
}

}  // namespace

void prepare_unwinding() {
  if (unwinder.object_count.load(std::memory_order_relaxed) != 0) return;
  if (&hakmem_loaded_dlsym != nullptr)
    unwinder.find_object = reinterpret_cast<FindObject>(hakmem_loaded_dlsym(RTLD_DEFAULT, "_dl_find_object"));
  size_t count = 0;
  dl_iterate_phdr(add_object, &count);
  unwinder.object_count.store(count, std::memory_order_release);
}

__attribute__((noinline)) size_t capture_stack(uintptr_t* addresses, size_t limit) {
  if (unwinder.object_count.load(std::memory_order_acquire) == 0) return 0;
  Registers registers = registers_here();
  bool is_interrupted = true;
  size_t count = 0;
  bool is_inside = true;
  while (count < limit && step(&registers, &is_interrupted)) {
    is_inside = is_inside && registers.rip >= unwinder.self.begin && registers.rip < unwinder.self.end;
    if (!is_inside) addresses[count++] = registers.rip;
  }
  return count;
}

}  // namespace hakmem::telemetry
