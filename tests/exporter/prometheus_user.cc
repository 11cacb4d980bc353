// A program that has prometheus-cpp in it, visible to whatever is loaded later: the system's library,
// or with OWN_COPY another of the same names, as one that was linked in with -rdynamic. It serialises
// a metric for each line of its input.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#if OWN_COPY
namespace prometheus {

struct MetricFamily {
  const char* name;
};

class Serializer {
 public:
  virtual ~Serializer() = default;
  virtual std::string Serialize(const std::vector<MetricFamily>& families) const;
  virtual void Serialize(std::ostream& output, const std::vector<MetricFamily>& families) const = 0;
};

class TextSerializer : public Serializer {
 public:
  using Serializer::Serialize;
  void Serialize(std::ostream& output, const std::vector<MetricFamily>& families) const override;
};

std::string Serializer::Serialize(const std::vector<MetricFamily>& families) const {
  // What is not of this program is of another layout.
  if (families.size() != 1) abort();
  return families[0].name;
}

void TextSerializer::Serialize(std::ostream& output, const std::vector<MetricFamily>& families) const {
  output << Serializer::Serialize(families);
}

}  // namespace prometheus
#else
#include <prometheus/text_serializer.h>
#endif

int main() {
  prometheus::TextSerializer serializer;
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<prometheus::MetricFamily> families(1);
    families[0].name = "own_metric";
    serializer.Serialize(std::cout, families);
    std::cout << " serialised" << std::endl;
  }
}
