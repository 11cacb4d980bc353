// How to get from a frame to its caller's, read from .eh_frame: where the
// canonical frame address (CFA) is, and where the caller's rbp and rbx were saved.
//
// Only what compilers emit for x86-64 is understood. What else is found ends the
// stack there: a stack that is too short does no harm, a wrong address would.
// Format: DWARF 5, section 6.4; Linux Standard Base, "Exception Frames".
#pragma once

#include <cstdint>

namespace hakmem::telemetry {

enum class Cfa : uint8_t {
  Unknown,       // the stack ends here
  Rsp,           // rsp + offset
  Rbp,           // rbp + offset
  Rbx,           // rbx + offset
  BehindRbp,     // the word at rbp + offset: a function that aligns its stack
  SignalFrame,   // the kernel saved all registers
  LinkageTable,  // rsp + 8, or 16 in the second half of an entry
};

// Where a register of the caller is.
enum class Saved : uint8_t { InRegister, BelowCfa, AtRbp, Lost };

// Eight bytes, so that a cache can hold it in one atomic word. The return address
// is always the word below the CFA.
struct UnwindRules {
  Cfa cfa = Cfa::Unknown;
  Saved rbp = Saved::InRegister;
  Saved rbx = Saved::InRegister;
  int8_t rbp_words = 0;  // from the CFA
  int8_t rbx_words = 0;
  uint8_t is_known = 0;  // so that no rules are all zeroes
  int16_t cfa_words = 0;
};
static_assert(sizeof(UnwindRules) == 8);

// What holds at `address`, by the sorted table at `eh_frame_hdr` of the object it is
// in. Any thread; takes no lock.
UnwindRules find_rules(uintptr_t address, const void* eh_frame_hdr);

}  // namespace hakmem::telemetry
