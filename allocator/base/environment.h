// The environment variables of hakmem, read once and kept: programs that set
// their title overwrite the strings of the environment later.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hakmem {

enum class Variable : uint8_t {
#define HAKMEM_VARIABLE(enumerator, name, form, needs, default_value, help) enumerator,
#include "allocator/base/environment.def"
#undef HAKMEM_VARIABLE
  kCount
};

// An IPv4 address and a port, both in host byte order.
struct ListenAddress {
  uint32_t address;
  uint16_t port;
};

// Reads all variables; called by the allocator's initialisation in every build,
// and by whoever may come before it. Only the first call does anything. A value
// that cannot be read, or an unknown HAKMEM_ name, gives one line on stderr and
// the default. Allocates nothing, needs no constructor to have run, keeps errno.
// A set-user-id program ignores the variables.
void check_environment();

// Reads `entries`, which end with a null, in place of all that was read before.
// One thread, and no other that asks for a value; for check_environment and tests.
void read_environment(const char* const* entries);

// The value as text; "" when it is not set and has no default.
const char* environment_text(Variable variable);

// The value of a variable of form Bytes or Switch.
uint64_t environment_number(Variable variable);

// Whether the environment sets the variable to something that was accepted.
bool is_set(Variable variable);

// Whether the environment sets it to something that was not accepted.
bool was_refused(Variable variable);

// Reads "HOST:PORT"; false when it is not an IPv4 address or "localhost" and a
// port of 1 to 65535.
bool parse_listen_address(const char* text, ListenAddress* result);

}  // namespace hakmem
