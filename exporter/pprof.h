// A profile in the format of pprof: profile.proto, compressed.
// Format: https://github.com/google/pprof/blob/main/proto/profile.proto.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace hakmem::exporter {

class AddressSpace;

class Pprof {
 public:
  struct ValueType {
    const char* type;
    const char* unit;
  };

  // The last type is what viewers show first; `period` is in bytes.
  Pprof(std::span<const ValueType> types, uint64_t period);

  // Tells samples of one stack apart; none where the key is null.
  struct Label {
    const char* key;
    const char* value;
  };

  // `stack`: return addresses, innermost first. One value a type.
  void add(std::span<const uintptr_t> stack, std::span<const int64_t> values, Label label = {});
  void set_time(uint64_t nanoseconds, uint64_t duration) { time_ = nanoseconds, duration_ = duration; }
  void add_comment(const std::string& comment) { comments_.push_back(string(comment)); }

  // With mappings and names of functions, compressed. Throws std::runtime_error.
  std::string finish(AddressSpace& addresses);

 private:
  // Number of a string in the table.
  uint64_t string(const std::string& text);
  void add_mappings(AddressSpace& addresses);
  void add_locations(AddressSpace& addresses);

  std::string output_;
  std::unordered_map<std::string, uint64_t> strings_;
  std::vector<std::string> string_table_;
  std::map<uintptr_t, uint64_t> locations_;  // by address
  std::vector<uint64_t> comments_;
  uint64_t time_ = 0;
  uint64_t duration_ = 0;
  uint64_t period_;
  uint64_t default_type_;
};

}  // namespace hakmem::exporter
