// Stats pages made of a fuzzer's input: bytes as they are, or a good page with some
// words overwritten, so that an input need not guess the catalogue's hash.
#pragma once

#include <string>
#include <string_view>

#include "telemetry/snapshot.h"
#include "tests/fuzz/input.h"

namespace hakmem::fuzz {

// The page of a process that has published nothing, with as many shards.
std::string good_page(const telemetry::Identity& identity, uint32_t shards);

// The next page of an input. Of a good page the identity is `identity`, unless
// the input overwrites it.
std::string take_page(Input* input, const telemetry::Identity& identity);

// What every exposition has to be, whatever stands in the pages it was made of:
// lines that Prometheus can read, no series twice, at most `most_series` of them.
void check_exposition(std::string_view text, size_t most_series);

}  // namespace hakmem::fuzz
