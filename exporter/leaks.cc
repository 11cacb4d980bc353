#include "exporter/leaks.h"

#include <spdlog/fmt/fmt.h>
#include <time.h>

#include <algorithm>

#include "exporter/address_space.h"

namespace hakmem::exporter {
namespace {

using metrics::Metric;
using telemetry::SiteFigures;

constexpr size_t kSeries = 5;
constexpr size_t kFramesOfSite = 3;  // beyond the wrappers that many programs have around malloc
constexpr size_t kMaxName = 100;     // of a function in a label: templates can have thousands

// "function+0x1f", or the file and the offset in it, as the same build always has it.
std::string frame_text(const AddressSpace& addresses, uintptr_t return_address, const AddressSpace::Symbol& symbol) {
  if (!symbol.name.empty()) return fmt::format("{}+{:#x}", readable(symbol.name), symbol.offset + 1);
  const AddressSpace::Mapping* mapping = addresses.find(return_address - 1);
  if (mapping == nullptr || mapping->path.empty()) return "code without a file";
  return fmt::format("{}+{:#x}", mapping->path.substr(mapping->path.rfind('/') + 1),
                     return_address - mapping->begin + mapping->offset);
}

// Without the types of a function's parameters, and not longer than a label should be.
std::string short_text(const std::string& frame) {
  size_t end = std::min(frame.rfind('+'), frame.size());
  std::string name = frame.substr(0, end);
  int depth = 0;  // of template arguments
  for (size_t i = 1; i < name.size(); ++i) {
    depth += (name[i] == '<') - (name[i] == '>');
    bool is_list = name[i] == '(' && depth == 0 && name.compare(i, 11, "(anonymous ") != 0 &&
                   !name.substr(0, i).ends_with("operator");
    if (is_list) name.resize(i);
  }
  // The end of a name tells more than its namespaces.
  if (name.size() > kMaxName) name = "..." + name.substr(name.size() - kMaxName);
  return name + frame.substr(end);
}

std::string site_text(const std::vector<std::string>& frames) {
  std::string text;
  for (size_t i = 0; i < std::min(frames.size(), kFramesOfSite); ++i)
    text += (i == 0 ? "" : " < ") + short_text(frames[i]);
  return text.empty() ? "unknown" : text;
}

uint64_t monotonic_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

double seconds_since(uint64_t moment) { return static_cast<double>(monotonic_now() - moment) / 1e9; }

std::string size_text(double bytes) {
  return bytes < 10 << 20 ? fmt::format("{:.0f} KiB", bytes / 1024) : fmt::format("{:.1f} MiB", bytes / (1 << 20));
}

std::string time_text(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

void LeakSuspects::name(const std::vector<Stack>& stacks) {
  std::map<Stack, std::vector<std::string>> named;
  std::vector<uintptr_t> wanted;
  for (const Stack& stack : stacks) {
    if (auto known = frames_.find(stack); known != frames_.end()) {
      named.insert(frames_.extract(known));
    } else {
      for (uintptr_t address : stack) wanted.push_back(address - 1);
    }
  }
  frames_ = std::move(named);
  if (wanted.empty()) return;
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  AddressSpace addresses;
  std::vector<AddressSpace::Symbol> symbols = addresses.symbols(wanted);
  for (const Stack& stack : stacks) {
    auto [place, is_new] = frames_.try_emplace(stack);
    for (size_t i = 0; is_new && i < stack.size(); ++i) {
      auto at = std::lower_bound(wanted.begin(), wanted.end(), stack[i] - 1) - wanted.begin();
      place->second.push_back(frame_text(addresses, stack[i], symbols[static_cast<size_t>(at)]));
    }
  }
}

std::vector<LeakSuspects::Suspect> LeakSuspects::find() {
  std::vector<SiteFigures> sites(telemetry::kMaxSuspects);
  sites.resize(host_.copy_suspects(sites.data(), sites.size()));
  std::vector<Stack> stacks;
  stacks.reserve(sites.size());
  for (const SiteFigures& site : sites) stacks.emplace_back(site.stack, site.stack + site.stack_size);
  name(stacks);
  std::vector<Suspect> suspects;
  for (size_t i = 0; i < sites.size(); ++i) {
    const SiteFigures& site = sites[i];
    const std::vector<std::string>& frames = frames_[stacks[i]];
    std::string text = site_text(frames);
    auto suspect = std::find_if(suspects.begin(), suspects.end(), [&](const Suspect& s) { return s.site == text; });
    if (suspect == suspects.end()) suspect = suspects.insert(suspects.end(), {.site = text});
    suspect->bytes += site.live.bytes;
    suspect->grown += site.growth.grown();
    suspect->objects += static_cast<double>(site.live.objects) / telemetry::kPartsOfObject;
    suspect->since = std::min(suspect->since, site.growth.since);
    suspect->stacks.push_back(&frames);
  }
  std::stable_sort(suspects.begin(), suspects.end(),
                   [](const Suspect& a, const Suspect& b) { return a.grown > b.grown; });
  return suspects;
}

void LeakSuspects::add_to(Exposition* exposition) {
  std::vector<Suspect> suspects = find();
  exposition->add_served(Metric::kLeakSuspects, static_cast<double>(suspects.size()));
  if (suspects.size() > kSeries) suspects.resize(kSeries);
  for (const Suspect& suspect : suspects) {
    exposition->add_served(Metric::kLeakSuspectBytes, static_cast<double>(suspect.bytes), suspect.site);
    exposition->add_served(Metric::kLeakSuspectAge, seconds_since(suspect.since), suspect.site);
  }
}

Response LeakSuspects::page() {
  std::vector<Suspect> suspects = find();
  if (suspects.empty()) return {.body = "No call site keeps growing.\n"};
  Response response{.body = "Call sites that keep growing, by how much. Figures are estimates from samples.\n"};
  for (const Suspect& suspect : suspects) {
    double age = seconds_since(suspect.since);
    auto grown = static_cast<double>(suspect.grown);
    response.body += fmt::format("\n{}\n  grown by {} in {}, {} an hour; holds {} in {:.0f} objects\n", suspect.site,
                                 size_text(grown), time_text(age), size_text(grown / age * 3600),
                                 size_text(static_cast<double>(suspect.bytes)), suspect.objects);
    for (const std::vector<std::string>* stack : suspect.stacks) {
      response.body += "  allocated by\n";
      for (const std::string& frame : *stack) response.body += "    " + frame + "\n";
    }
  }
  return response;
}

}  // namespace hakmem::exporter
