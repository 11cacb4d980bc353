#include "exporter/address_space.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

namespace hakmem::exporter {
namespace {

constexpr size_t kSymbolsAtOnce = 4096;
constexpr size_t kMaxNotes = 64 << 10;
constexpr size_t kMaxSections = 4096;
constexpr size_t kMaxName = 4096;

// An ELF file for this machine.
class ElfFile {
 public:
  ElfFile(const std::string& path, uint64_t inode) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    struct stat status {};
    // Another file may have its path by now.
    is_good_ = fd_ >= 0 && fstat(fd_, &status) == 0 && S_ISREG(status.st_mode) && status.st_ino == inode &&
               read(0, &header_, 1) && memcmp(header_.e_ident, ELFMAG, SELFMAG) == 0 &&
               header_.e_ident[EI_CLASS] == ELFCLASS64 && header_.e_phentsize == sizeof(Elf64_Phdr);
    if (!is_good_) return;
    segments_.resize(header_.e_phnum);
    if (!read(header_.e_phoff, segments_.data(), segments_.size())) segments_.clear();
  }
  ~ElfFile() {
    if (fd_ >= 0) close(fd_);
  }
  ElfFile(const ElfFile&) = delete;
  ElfFile& operator=(const ElfFile&) = delete;

  bool is_good() const { return is_good_; }
  std::string build_id() const;
  // Address in the file of what stands at `offset`.
  std::optional<uint64_t> address_of(uint64_t offset) const {
    for (const Elf64_Phdr& segment : segments_)
      if (segment.p_type == PT_LOAD && offset >= segment.p_offset && offset - segment.p_offset < segment.p_filesz)
        return offset - segment.p_offset + segment.p_vaddr;
    return {};
  }
  // Fills in the functions at `addresses`, which are sorted, from the full table of
  // symbols or else that of exported ones.
  void find_symbols(const std::vector<uint64_t>& addresses, std::vector<AddressSpace::Symbol>* found) const;

 private:
  template <class Item>
  bool read(uint64_t offset, Item* items, size_t count) const {
    auto bytes = static_cast<ssize_t>(count * sizeof(Item));
    return pread(fd_, items, count * sizeof(Item), static_cast<off_t>(offset)) == bytes;
  }
  std::string text(uint64_t offset) const {
    char buffer[kMaxName];
    ssize_t length = pread(fd_, buffer, sizeof buffer, static_cast<off_t>(offset));
    return length <= 0 ? std::string() : std::string(buffer, strnlen(buffer, static_cast<size_t>(length)));
  }

  int fd_;
  bool is_good_ = false;
  Elf64_Ehdr header_{};
  std::vector<Elf64_Phdr> segments_;
};

std::string ElfFile::build_id() const {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::string notes(segment.p_filesz, '\0');
    if (!read(segment.p_offset, notes.data(), notes.size())) continue;
    for (size_t i = 0; i + sizeof(Elf64_Nhdr) <= notes.size();) {
      Elf64_Nhdr note;
      memcpy(&note, &notes[i], sizeof note);
      size_t name = i + sizeof note;
      size_t content = name + (size_t{note.n_namesz} + 3) / 4 * 4;
      i = content + (size_t{note.n_descsz} + 3) / 4 * 4;
      if (content + note.n_descsz > notes.size()) break;
      if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || notes.compare(name, 3, "GNU") != 0) continue;
      std::string result;
      for (size_t byte = 0; byte < note.n_descsz; ++byte) {
        constexpr char kDigits[] = "0123456789abcdef";
        auto value = static_cast<unsigned char>(notes[content + byte]);
        result += {kDigits[value >> 4], kDigits[value & 15]};
      }
      return result;
    }
  }
  return "";
}

void ElfFile::find_symbols(const std::vector<uint64_t>& addresses, std::vector<AddressSpace::Symbol>* found) const {
  if (header_.e_shentsize != sizeof(Elf64_Shdr) || header_.e_shnum == 0 || header_.e_shnum > kMaxSections) return;
  std::vector<Elf64_Shdr> sections(header_.e_shnum);
  if (!read(header_.e_shoff, sections.data(), sections.size())) return;
  auto of_type = [&](uint32_t type) {
    return std::find_if(sections.begin(), sections.end(), [&](const Elf64_Shdr& s) { return s.sh_type == type; });
  };
  auto table = of_type(SHT_SYMTAB);
  if (table == sections.end()) table = of_type(SHT_DYNSYM);
  if (table == sections.end() || table->sh_link >= sections.size()) return;
  uint64_t strings = sections[table->sh_link].sh_offset;
  std::vector<uint64_t> name_of(addresses.size(), 0);
  std::vector<Elf64_Sym> symbols(kSymbolsAtOnce);
  for (uint64_t first = 0, count = table->sh_size / sizeof(Elf64_Sym); first < count; first += kSymbolsAtOnce) {
    size_t now = std::min<uint64_t>(kSymbolsAtOnce, count - first);
    if (!read(table->sh_offset + first * sizeof(Elf64_Sym), symbols.data(), now)) return;
    for (size_t i = 0; i < now; ++i) {
      const Elf64_Sym& symbol = symbols[i];
      uint32_t type = ELF64_ST_TYPE(symbol.st_info);
      if ((type != STT_FUNC && type != STT_GNU_IFUNC) || symbol.st_shndx == SHN_UNDEF || symbol.st_name == 0) continue;
      auto address = std::lower_bound(addresses.begin(), addresses.end(), symbol.st_value);
      for (; address != addresses.end() && *address - symbol.st_value < std::max<uint64_t>(symbol.st_size, 1);
           ++address) {
        auto place = static_cast<size_t>(address - addresses.begin());
        name_of[place] = strings + symbol.st_name;
        (*found)[place].offset = *address - symbol.st_value;
      }
    }
  }
  for (size_t i = 0; i < addresses.size(); ++i)
    if (name_of[i] != 0) (*found)[i].name = text(name_of[i]);
}

// "start-end perms offset device inode path" of /proc/self/maps.
std::optional<AddressSpace::Mapping> parse_mapping(const std::string& line) {
  std::istringstream fields(line);
  AddressSpace::Mapping mapping{};
  char dash = 0;
  std::string permissions, device;
  fields >> std::hex >> mapping.begin >> dash >> mapping.end >> permissions >> mapping.offset >> device >> std::dec >>
      mapping.inode;
  if (!fields || permissions.find('x') == std::string::npos) return {};
  std::getline(fields >> std::ws, mapping.path);
  return mapping;
}

}  // namespace

AddressSpace::AddressSpace() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::optional<Mapping> mapping = parse_mapping(line);
    if (!mapping) continue;
    mapping->id = mappings_.size() + 1;
    if (mapping->inode != 0) mapping->build_id = ElfFile(mapping->path, mapping->inode).build_id();
    mappings_.push_back(*mapping);
  }
}

const AddressSpace::Mapping* AddressSpace::find(uintptr_t address) const {
  auto after = std::upper_bound(mappings_.begin(), mappings_.end(), address,
                                [](uintptr_t value, const Mapping& mapping) { return value < mapping.begin; });
  return after == mappings_.begin() || address >= after[-1].end ? nullptr : &after[-1];
}

std::vector<AddressSpace::Symbol> AddressSpace::symbols(const std::vector<uintptr_t>& addresses) const {
  std::vector<Symbol> result(addresses.size());
  for (const Mapping& mapping : mappings_) {
    auto first = std::lower_bound(addresses.begin(), addresses.end(), mapping.begin);
    auto last = std::lower_bound(first, addresses.end(), mapping.end);
    if (first == last || mapping.inode == 0) continue;
    ElfFile file(mapping.path, mapping.inode);
    if (!file.is_good()) continue;
    std::vector<uint64_t> in_file;
    for (auto address = first; address != last; ++address)
      in_file.push_back(
          file.address_of(*address - mapping.begin + mapping.offset).value_or(in_file.empty() ? 0 : in_file.back()));
    std::vector<Symbol> found(in_file.size());
    file.find_symbols(in_file, &found);
    std::move(found.begin(), found.end(), result.begin() + (first - addresses.begin()));
  }
  return result;
}

std::string readable(const std::string& symbol) {
  if (!symbol.starts_with("_Z")) return symbol;
  int status = 0;
  std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status),
                                                   &std::free);
  return status == 0 ? text.get() : symbol;
}

}  // namespace hakmem::exporter
