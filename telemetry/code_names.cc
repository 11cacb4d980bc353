#include "telemetry/code_names.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "telemetry/map_reader.h"
#include "telemetry/system.h"

namespace hakmem::telemetry {
namespace {

constexpr size_t kMaxName = 160;
constexpr size_t kMaxPath = 240;  // more is cut at its start
constexpr size_t kSymbolsAtOnce = 256;

// Apart from the buffer of the publisher, which may be in the middle of a line; static,
// as the handler's stack may be small.
constinit char lines[8192]{};
constinit char path[4096]{};
constinit Elf64_Sym symbols[kSymbolsAtOnce]{};

struct Symbol {
  uint64_t start = 0;
  char name[kMaxName] = "";
};

// An ELF file, read where it lies: what it says is not trusted.
class ElfFile {
 public:
  explicit ElfFile(const char* file) : fd_(open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    is_good_ = read_at(0, &header_, sizeof header_) && memcmp(header_.e_ident, ELFMAG, SELFMAG) == 0 &&
               header_.e_ident[EI_CLASS] == ELFCLASS64 && header_.e_phentsize == sizeof(Elf64_Phdr) &&
               header_.e_shentsize == sizeof(Elf64_Shdr);
  }
  ~ElfFile() {
    if (fd_ >= 0) close(fd_);
  }
  ElfFile(const ElfFile&) = delete;
  ElfFile& operator=(const ElfFile&) = delete;

  // The address that the file's own tables have for what stands at `offset`.
  bool find_address(uint64_t offset, uint64_t* address) const {
    if (!is_good_) return false;
    for (uint32_t i = 0; i < header_.e_phnum; ++i) {
      Elf64_Phdr program;
      if (!read_at(header_.e_phoff + i * sizeof program, &program, sizeof program)) return false;
      if (program.p_type != PT_LOAD || offset - program.p_offset >= program.p_filesz) continue;
      *address = offset - program.p_offset + program.p_vaddr;
      return true;
    }
    return false;
  }

  // The function at the address; without a name when there is none.
  void find_symbol(uint64_t address, Symbol* result) const {
    Elf64_Shdr table{};
    Elf64_Shdr names{};
    if (!find_table(SHT_SYMTAB, &table) && !find_table(SHT_DYNSYM, &table)) return;
    if (!read_section(table.sh_link, &names)) return;
    uint64_t name = 0;
    for (uint64_t left = table.sh_size / sizeof(Elf64_Sym), offset = table.sh_offset; left > 0;) {
      size_t now = std::min<uint64_t>(left, kSymbolsAtOnce);
      if (!read_at(offset, symbols, now * sizeof(Elf64_Sym))) break;
      for (size_t i = 0; i < now; ++i) {
        const Elf64_Sym& symbol = symbols[i];
        bool is_code = ELF64_ST_TYPE(symbol.st_info) == STT_FUNC || ELF64_ST_TYPE(symbol.st_info) == STT_GNU_IFUNC;
        if (!is_code || symbol.st_shndx == SHN_UNDEF || address - symbol.st_value >= symbol.st_size) continue;
        name = names.sh_offset + symbol.st_name;
        result->start = symbol.st_value;
      }
      left -= now;
      offset += now * sizeof(Elf64_Sym);
    }
    // The end of the table may be nearer than the longest name.
    ssize_t count = name == 0 ? 0 : pread(fd_, result->name, kMaxName - 1, static_cast<off_t>(name));
    result->name[count < 0 ? 0 : count] = '\0';
  }

 private:
  bool read_at(uint64_t offset, void* to, size_t bytes) const {
    return pread(fd_, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
  }
  bool read_section(uint32_t index, Elf64_Shdr* section) const {
    return index < header_.e_shnum && read_at(header_.e_shoff + index * sizeof *section, section, sizeof *section);
  }
  bool find_table(uint32_t type, Elf64_Shdr* section) const {
    for (uint32_t i = 0; is_good_ && read_section(i, section); ++i)
      if (section->sh_type == type) return true;
    return false;
  }

  int fd_;
  bool is_good_;
  Elf64_Ehdr header_;
};

// The mapping that an address is in: its file, now in `path`, and the offset there.
bool find_mapping(uintptr_t address, uint64_t* offset) {
  MapReader maps(lines, sizeof lines);
  for (MapEntry entry; maps.is_open() && maps.next(&entry);) {
    if (address < entry.begin || address >= entry.end) continue;
    strncpy(path, entry.path, sizeof path - 1);
    *offset = address - entry.begin + entry.offset;
    return true;
  }
  return false;
}

}  // namespace

void name_code(uintptr_t address, LineBuffer* line) {
  uint64_t in_file = 0;
  if (!find_mapping(address, &in_file) || path[0] == '\0') return;
  if (path[0] == '/') {
    ElfFile file(path);
    Symbol symbol;
    if (uint64_t linked = 0; file.find_address(in_file, &linked)) {
      in_file = linked;
      file.find_symbol(linked, &symbol);
    }
    if (symbol.name[0] != '\0') line->text(" in ").text(symbol.name).text("+").hex(in_file - symbol.start);
  }
  size_t length = strlen(path);
  line->text(length <= kMaxPath ? " (" : " (...").text(path + (length <= kMaxPath ? 0 : length - kMaxPath));
  line->text("+").hex(in_file).text(")");
}

}  // namespace hakmem::telemetry
