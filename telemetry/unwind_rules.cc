#include "telemetry/unwind_rules.h"

#include <cstring>

namespace hakmem::telemetry {
namespace {

// Numbers of registers in DWARF for x86-64.
constexpr uint64_t kRbx = 3, kRbp = 6, kRsp = 7, kReturnAddress = 16;

// Encodings of pointers.
constexpr uint8_t kPcRelative = 0x10, kDataRelative = 0x30;

class Reader {
 public:
  Reader(const uint8_t* begin, const uint8_t* end) : next_(begin), end_(end) {}

  bool at_end() const { return next_ >= end_; }
  const uint8_t* position() const { return next_; }
  const uint8_t* end() const { return end_; }

  template <class Number>
  Number fixed() {
    Number number{};
    if (static_cast<size_t>(end_ - next_) < sizeof number) {
      next_ = end_;
      return number;
    }
    memcpy(&number, next_, sizeof number);
    next_ += sizeof number;
    return number;
  }

  uint64_t unsigned_leb() {
    uint64_t result = 0;
    for (uint32_t shift = 0; !at_end(); shift += 7) {
      uint8_t byte = *next_++;
      if (shift < 64) result |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) break;
    }
    return result;
  }

  int64_t signed_leb() {
    uint64_t result = 0;
    uint32_t shift = 0;
    while (!at_end()) {
      uint8_t byte = *next_++;
      if (shift < 64) result |= uint64_t{byte & 0x7fu} << shift;
      shift += 7;
      if ((byte & 0x80) == 0) {
        if ((byte & 0x40) != 0 && shift < 64) result |= ~uint64_t{0} << shift;
        break;
      }
    }
    return static_cast<int64_t>(result);
  }

  // A pointer in the given encoding; 0 when it is one that is not known.
  uintptr_t pointer(uint8_t encoding) {
    auto here = reinterpret_cast<uintptr_t>(next_);
    uintptr_t value = 0;
    switch (encoding & 0x0f) {
      case 0x00:
      case 0x04:
      case 0x0c: value = fixed<uint64_t>(); break;
      case 0x03: value = fixed<uint32_t>(); break;
      case 0x0b: value = static_cast<uintptr_t>(int64_t{fixed<int32_t>()}); break;
      default: next_ = end_; return 0;
    }
    return (encoding & 0x70) == kPcRelative ? here + value : value;
  }

  void skip(uint64_t bytes) { next_ = bytes < static_cast<uint64_t>(end_ - next_) ? next_ + bytes : end_; }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

// A common information entry.
struct Common {
  uint64_t code_alignment = 1;
  int64_t data_alignment = 1;
  uint8_t pointer_encoding = 0;
  bool has_augmentation = false;
  bool is_signal_frame = false;
  Reader instructions{nullptr, nullptr};
};

bool read_common(const uint8_t* entry, Common* common) {
  uint32_t bytes = 0;
  memcpy(&bytes, entry, sizeof bytes);
  if (bytes == 0 || bytes == UINT32_MAX) return false;
  Reader reader(entry + 4, entry + 4 + bytes);
  if (reader.fixed<uint32_t>() != 0) return false;
  uint8_t version = reader.fixed<uint8_t>();
  const char* augmentation = reinterpret_cast<const char*>(reader.position());
  reader.skip(strnlen(augmentation, static_cast<size_t>(reader.end() - reader.position())) + 1);
  common->code_alignment = reader.unsigned_leb();
  common->data_alignment = reader.signed_leb();
  uint64_t return_register = version == 1 ? reader.fixed<uint8_t>() : reader.unsigned_leb();
  if (return_register != kReturnAddress) return false;
  if (*augmentation == 'z') {
    common->has_augmentation = true;
    uint64_t length = reader.unsigned_leb();
    Reader data = reader;
    reader.skip(length);
    for (const char* letter = augmentation + 1; *letter != '\0'; ++letter) {
      switch (*letter) {
        case 'R': common->pointer_encoding = data.fixed<uint8_t>(); break;
        case 'L': data.skip(1); break;
        case 'P': (void)data.pointer(data.fixed<uint8_t>()); break;
        case 'S': common->is_signal_frame = true; break;
        default: return false;
      }
    }
  } else if (*augmentation != '\0') {
    return false;
  }
  common->instructions = reader;
  return true;
}

// What a program of call frame instructions has said so far.
struct State {
  Cfa cfa = Cfa::Unknown;
  int64_t cfa_offset = 0;
  struct Rule {
    Saved where = Saved::InRegister;
    int64_t offset = 0;
  };
  Rule rbp, rbx;
  bool is_outermost = false;  // the return address is undefined

  Rule* rule(uint64_t number) { return number == kRbp ? &rbp : number == kRbx ? &rbx : nullptr; }
};

class Program {
 public:
  explicit Program(const Common& common) : common_(common) {}

  // Runs until `address` is passed; false when it has something that is not understood.
  bool run(Reader code, uintptr_t location, uintptr_t address) {
    while (!code.at_end()) {
      uint8_t byte = code.fixed<uint8_t>();
      uint8_t low = byte & 0x3f;
      switch (byte & 0xc0) {
        case 0x40: location += low * common_.code_alignment; break;
        case 0x80:
          set(low, {Saved::BelowCfa, static_cast<int64_t>(code.unsigned_leb()) * common_.data_alignment});
          break;
        case 0xc0: restore(low); break;
        default:
          if (!run_extended(byte, &code, &location)) return false;
      }
      if (location > address) return true;
    }
    return true;
  }

  // The state that restore instructions go back to.
  void keep_initial() { initial_ = state_; }
  const State& state() const { return state_; }

 private:
  void set(uint64_t number, State::Rule rule) {
    if (State::Rule* target = state_.rule(number)) *target = rule;
    if (number == kReturnAddress) state_.is_outermost = rule.where != Saved::BelowCfa || rule.offset != -8;
  }

  void restore(uint64_t number) {
    if (State::Rule* target = state_.rule(number)) *target = *initial_.rule(number);
    if (number == kReturnAddress) state_.is_outermost = initial_.is_outermost;
  }

  void set_cfa_register(uint64_t number) {
    state_.cfa = number == kRsp ? Cfa::Rsp : number == kRbp ? Cfa::Rbp : number == kRbx ? Cfa::Rbx : Cfa::Unknown;
  }

  // The two expressions that gcc, clang and the linker emit for the CFA.
  void set_cfa_expression(Reader expression) {
    constexpr uint8_t kLinkageTable[] = {0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22};
    constexpr uint8_t kLinkageTableLate[] = {0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22};
    auto length = static_cast<size_t>(expression.end() - expression.position());
    state_.cfa = Cfa::Unknown;
    if (length == sizeof kLinkageTable && (memcmp(expression.position(), kLinkageTable, length) == 0 ||
                                           memcmp(expression.position(), kLinkageTableLate, length) == 0)) {
      state_.cfa = Cfa::LinkageTable;
    } else if (expression.fixed<uint8_t>() == 0x70 + kRbp) {
      state_.cfa_offset = expression.signed_leb();
      constexpr uint8_t kDereference = 0x06;
      if (expression.fixed<uint8_t>() == kDereference && expression.at_end()) state_.cfa = Cfa::BehindRbp;
    }
  }

  // A register saved at an address that an expression yields: rbp, in functions that align their stack.
  void set_expression(uint64_t number, Reader expression) {
    bool is_at_rbp = expression.fixed<uint8_t>() == 0x70 + kRbp && expression.signed_leb() == 0 && expression.at_end();
    set(number, {number == kRbp && is_at_rbp ? Saved::AtRbp : Saved::Lost, 0});
  }

  static Reader block(Reader* code) {
    uint64_t length = code->unsigned_leb();
    const uint8_t* begin = code->position();
    code->skip(length);
    return {begin, code->position()};
  }

  bool run_extended(uint8_t byte, Reader* code, uintptr_t* location) {
    uint64_t number = 0;
    switch (byte) {
      case 0x00: return true;
      case 0x01: *location = code->pointer(common_.pointer_encoding); return true;
      case 0x02: *location += code->fixed<uint8_t>() * common_.code_alignment; return true;
      case 0x03: *location += code->fixed<uint16_t>() * common_.code_alignment; return true;
      case 0x04: *location += code->fixed<uint32_t>() * common_.code_alignment; return true;
      case 0x05:
        number = code->unsigned_leb();
        set(number, {Saved::BelowCfa, static_cast<int64_t>(code->unsigned_leb()) * common_.data_alignment});
        return true;
      case 0x06: restore(code->unsigned_leb()); return true;
      case 0x07: set(code->unsigned_leb(), {Saved::Lost, 0}); return true;
      case 0x08: set(code->unsigned_leb(), {Saved::InRegister, 0}); return true;
      case 0x09:
        set(code->unsigned_leb(), {Saved::Lost, 0});
        code->unsigned_leb();
        return true;
      case 0x0a:
        if (depth_ == kMaxDepth) return false;
        remembered_[depth_++] = state_;
        return true;
      case 0x0b:
        if (depth_ == 0) return false;
        state_ = remembered_[--depth_];
        return true;
      case 0x0c:
        set_cfa_register(code->unsigned_leb());
        state_.cfa_offset = static_cast<int64_t>(code->unsigned_leb());
        return true;
      case 0x0d: set_cfa_register(code->unsigned_leb()); return true;
      case 0x0e: state_.cfa_offset = static_cast<int64_t>(code->unsigned_leb()); return true;
      case 0x0f: set_cfa_expression(block(code)); return true;
      case 0x10:
        number = code->unsigned_leb();
        set_expression(number, block(code));
        return true;
      case 0x11:
        number = code->unsigned_leb();
        set(number, {Saved::BelowCfa, code->signed_leb() * common_.data_alignment});
        return true;
      case 0x12:
        set_cfa_register(code->unsigned_leb());
        state_.cfa_offset = code->signed_leb() * common_.data_alignment;
        return true;
      case 0x13: state_.cfa_offset = code->signed_leb() * common_.data_alignment; return true;
      case 0x14:
      case 0x15:
        set(code->unsigned_leb(), {Saved::Lost, 0});
        code->unsigned_leb();
        return true;
      case 0x16:
        set(code->unsigned_leb(), {Saved::Lost, 0});
        block(code);
        return true;
      case 0x2e: code->unsigned_leb(); return true;
      default: return false;
    }
  }

  static constexpr uint32_t kMaxDepth = 8;
  const Common& common_;
  State state_;
  State initial_;
  State remembered_[kMaxDepth];
  uint32_t depth_ = 0;
};

// The entry for `address` in the sorted table of a .eh_frame_hdr; null when there is none.
const uint8_t* find_entry(uintptr_t address, const void* eh_frame_hdr) {
  const auto* header = static_cast<const uint8_t*>(eh_frame_hdr);
  // Version 1, .eh_frame by a relative word, a count of words, a table of words relative to here.
  constexpr uint8_t kExpected[] = {1, kPcRelative | 0x0b, 0x03, kDataRelative | 0x0b};
  if (memcmp(header, kExpected, sizeof kExpected) != 0) return nullptr;
  uint32_t count = 0;
  memcpy(&count, header + 8, sizeof count);
  struct Row {
    int32_t start;
    int32_t entry;
  };
  const auto* rows = reinterpret_cast<const Row*>(header + 12);
  auto wanted = static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(header));
  uint32_t first = 0;
  for (uint32_t left = count; left > 0;) {
    uint32_t half = left / 2;
    if (rows[first + half].start <= wanted) {
      first += half + 1;
      left -= half + 1;
    } else {
      left = half;
    }
  }
  return first == 0 ? nullptr : header + rows[first - 1].entry;
}

bool fits(int64_t offset, int64_t limit) { return offset % 8 == 0 && offset / 8 >= -limit && offset / 8 < limit; }

UnwindRules pack(const State& state) {
  UnwindRules rules{};
  rules.is_known = 1;
  if (state.is_outermost || state.cfa == Cfa::Unknown || !fits(state.cfa_offset, INT16_MAX)) return rules;
  rules.cfa = state.cfa;
  rules.cfa_words = static_cast<int16_t>(state.cfa_offset / 8);
  auto pack_register = [](const State::Rule& rule, Saved* where, int8_t* words) {
    bool is_kept = rule.where != Saved::BelowCfa || fits(rule.offset, INT8_MAX);
    *where = is_kept ? rule.where : Saved::Lost;
    *words = is_kept && rule.where == Saved::BelowCfa ? static_cast<int8_t>(rule.offset / 8) : int8_t{0};
  };
  pack_register(state.rbp, &rules.rbp, &rules.rbp_words);
  pack_register(state.rbx, &rules.rbx, &rules.rbx_words);
  return rules;
}

}  // namespace

UnwindRules find_rules(uintptr_t address, const void* eh_frame_hdr) {
  UnwindRules unknown{};
  unknown.is_known = 1;
  const uint8_t* entry = find_entry(address, eh_frame_hdr);
  if (entry == nullptr) return unknown;
  uint32_t bytes = 0;
  memcpy(&bytes, entry, sizeof bytes);
  if (bytes == 0 || bytes == UINT32_MAX) return unknown;
  Reader reader(entry + 4, entry + 4 + bytes);
  uint32_t distance = reader.fixed<uint32_t>();
  Common common;
  if (distance == 0 || !read_common(entry + 4 - distance, &common)) return unknown;
  uintptr_t start = reader.pointer(common.pointer_encoding);
  uintptr_t length = reader.pointer(common.pointer_encoding & 0x0f);
  if (address < start || address - start >= length) return unknown;
  if (common.has_augmentation) reader.skip(reader.unsigned_leb());
  if (common.is_signal_frame) {
    unknown.cfa = Cfa::SignalFrame;
    return unknown;
  }
  Program program(common);
  if (!program.run(common.instructions, start, UINTPTR_MAX)) return unknown;
  program.keep_initial();
  if (!program.run(reader, start, address)) return unknown;
  return pack(program.state());
}

}  // namespace hakmem::telemetry
