// What this process has mapped to run code from, and the names of functions in it,
// by the symbol tables of the files. The files are read, not mapped: whatever
// happens to one meanwhile, the worst is a name less.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hakmem::exporter {

class AddressSpace {
 public:
  struct Mapping {
    uint64_t id;  // from 1
    uintptr_t begin;
    uintptr_t end;
    uint64_t offset;  // in the file
    uint64_t inode;
    std::string path;      // "[vdso]" and the like have no file
    std::string build_id;  // hexadecimal; empty: unknown
  };

  // Reads /proc/self/maps.
  AddressSpace();

  const std::vector<Mapping>& mappings() const { return mappings_; }
  const Mapping* find(uintptr_t address) const;

  struct Symbol {
    std::string name;     // as it is in the file; empty: unknown
    uint64_t offset = 0;  // of the address from the symbol's
  };
  // The symbols that the addresses, which are sorted, lie in.
  std::vector<Symbol> symbols(const std::vector<uintptr_t>& addresses) const;

 private:
  std::vector<Mapping> mappings_;  // by address
};

// A symbol of C++ as it was written; others as they are.
std::string readable(const std::string& symbol);

}  // namespace hakmem::exporter
