// Input for compiler_test.py: templates and library headers that make a compiler
// allocate some hundred MiB in blocks of all sizes.
#include <array>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int depth>
struct Tower {
  using Level = std::tuple<std::map<int, std::array<char, depth + 1>>, typename Tower<depth - 1>::Level>;
  static std::size_t height() { return sizeof(Level) + Tower<depth - 1>::height(); }
};
template <>
struct Tower<0> {
  using Level = int;
  static std::size_t height() { return 0; }
};

using Value = std::variant<int, double, std::string, std::vector<int>, std::map<std::string, int>>;

std::string describe(const Value& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        if constexpr (requires { held.size(); })
          return "size " + std::to_string(held.size());
        else
          return "value " + std::to_string(held);
      },
      value);
}

int main() {
  std::unordered_map<std::string, Value> values{{"a", 1}, {"b", 2.5}, {"c", std::string("text")}};
  values["d"] = std::vector<int>{1, 2, 3};
  values["e"] = std::map<std::string, int>{{"x", 1}};
  std::set<std::string> lines;
  for (const auto& [name, value] : values) lines.insert(name + ": " + describe(value));
  for (const std::string& line : lines) std::cout << line << '\n';
  std::cout << lines.size() << ' ' << (Tower<16>::height() > 0) << '\n';
}
