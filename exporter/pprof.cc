#include "exporter/pprof.h"

#include <zlib.h>

#include <stdexcept>

#include "exporter/address_space.h"

namespace hakmem::exporter {
namespace {

// Messages of protocol buffers, written field by field.
class Message {
 public:
  void number(uint32_t field, uint64_t value) {
    if (value == 0) return;
    varint(uint64_t{field} << 3);
    varint(value);
  }
  void bytes(uint32_t field, std::string_view content) {
    varint(uint64_t{field} << 3 | 2);
    varint(content.size());
    text_.append(content);
  }
  void message(uint32_t field, const Message& inner) { bytes(field, inner.text_); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
    text_.push_back(static_cast<char>(value));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// Fields of the message Profile.
enum Field : uint32_t {
  kSampleType = 1,
  kSample = 2,
  kMapping = 3,
  kLocation = 4,
  kFunction = 5,
  kString = 6,
  kTime = 9,
  kDuration = 10,
  kPeriodType = 11,
  kPeriod = 12,
  kComment = 13,
  kDefaultType = 14,
};

void append(std::string& output, uint32_t field, const Message& message) {
  Message outer;
  outer.message(field, message);
  output += outer.text();
}

std::string compress(const std::string& content) {
  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("zlib cannot be used");
  std::string result(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  int status = deflate(&stream, Z_FINISH);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  if (status != Z_STREAM_END) throw std::runtime_error("the profile cannot be compressed");
  return result;
}

}  // namespace

Pprof::Pprof(std::span<const ValueType> types, uint64_t period) : period_(period) {
  string("");
  for (const ValueType& type : types) {
    Message message;
    message.number(1, string(type.type));
    message.number(2, string(type.unit));
    append(output_, kSampleType, message);
  }
  default_type_ = string(types.back().type);
}

uint64_t Pprof::string(const std::string& text) {
  auto [place, is_new] = strings_.try_emplace(text, string_table_.size());
  if (is_new) string_table_.push_back(text);
  return place->second;
}

void Pprof::add(std::span<const uintptr_t> stack, std::span<const int64_t> values, Label label) {
  Message locations;
  for (uintptr_t address : stack) {
    // The call, not what comes after it, which may be of another line or function.
    auto [place, is_new] = locations_.try_emplace(address - 1, locations_.size() + 1);
    locations.varint(place->second);
  }
  Message numbers;
  for (int64_t value : values) numbers.varint(static_cast<uint64_t>(value));
  Message sample;
  sample.message(1, locations);
  sample.message(2, numbers);
  if (label.key != nullptr) {
    Message pair;
    pair.number(1, string(label.key));
    pair.number(2, string(label.value));
    sample.message(3, pair);
  }
  append(output_, kSample, sample);
}

void Pprof::add_mappings(AddressSpace& addresses) {
  for (const AddressSpace::Mapping& mapping : addresses.mappings()) {
    Message message;
    message.number(1, mapping.id);
    message.number(2, mapping.begin);
    message.number(3, mapping.end);
    message.number(4, mapping.offset);
    message.number(5, string(mapping.path));
    message.number(6, string(mapping.build_id));
    message.number(7, 1);  // has functions
    append(output_, kMapping, message);
  }
}

void Pprof::add_locations(AddressSpace& addresses) {
  std::vector<uintptr_t> wanted;
  for (const auto& [address, id] : locations_) wanted.push_back(address);
  std::vector<AddressSpace::Symbol> symbols = addresses.symbols(wanted);
  std::map<std::string, uint64_t> functions;
  size_t i = 0;
  for (const auto& [address, id] : locations_) {
    Message message;
    message.number(1, id);
    if (const AddressSpace::Mapping* mapping = addresses.find(address)) message.number(2, mapping->id);
    message.number(3, address);
    const std::string& name = symbols[i++].name;
    if (!name.empty()) {
      Message line;
      line.number(1, functions.try_emplace(name, functions.size() + 1).first->second);
      message.message(4, line);
    }
    append(output_, kLocation, message);
  }
  for (const auto& [name, id] : functions) {
    Message message;
    message.number(1, id);
    message.number(2, string(readable(name)));
    message.number(3, string(name));
    append(output_, kFunction, message);
  }
}

std::string Pprof::finish(AddressSpace& addresses) {
  add_mappings(addresses);
  add_locations(addresses);
  Message period_type;
  period_type.number(1, string("space"));
  period_type.number(2, string("bytes"));
  Message rest;
  rest.number(kTime, time_);
  rest.number(kDuration, duration_);
  rest.message(kPeriodType, period_type);
  rest.number(kPeriod, period_);
  for (uint64_t comment : comments_) rest.number(kComment, comment);
  rest.number(kDefaultType, default_type_);
  for (const std::string& text : string_table_) rest.bytes(kString, text);
  return compress(output_ + rest.text());
}

}  // namespace hakmem::exporter
