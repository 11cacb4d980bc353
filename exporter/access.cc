#include "exporter/access.h"

#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace hakmem::exporter {
namespace {

constexpr size_t kMinSecretBytes = 8;
constexpr size_t kMaxSecretBytes = 256;

std::string base64(std::string_view text) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string result;
  for (size_t i = 0; i < text.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = i; j < i + 3; ++j) bits = bits << 8 | (j < text.size() ? static_cast<unsigned char>(text[j]) : 0);
    for (size_t digit = 0; digit < 4; ++digit)
      result += i + digit <= text.size() ? kDigits[bits >> (18 - 6 * digit) & 63] : '=';
  }
  return result;
}

// What is wrong with the file itself; "" when nothing is.
std::string complaint(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return "it is not a file";
  if (status.st_uid != geteuid() && status.st_uid != 0) return "it belongs to another user";
  if ((status.st_mode & (S_IWGRP | S_IRWXO)) != 0) return "others may read or change it; chmod 600 it";
  return "";
}

}  // namespace

std::string Access::read_secret(const char* path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return strerror(errno);
  char text[kMaxSecretBytes + 3];
  std::string wrong = complaint(fd);
  ssize_t length = wrong.empty() ? read(fd, text, sizeof text) : 0;
  if (length < 0) wrong = strerror(errno);
  close(fd);
  if (!wrong.empty()) return wrong;
  std::string_view secret(text, static_cast<size_t>(length));
  if (secret.ends_with('\n')) secret.remove_suffix(1);
  if (secret.ends_with('\r')) secret.remove_suffix(1);
  bool is_printable = std::all_of(secret.begin(), secret.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (secret.size() < kMinSecretBytes || secret.size() > kMaxSecretBytes || !is_printable)
    return "it does not hold one line USER:PASSWORD or TOKEN of 8 to 256 printable characters";
  is_basic_ = secret.find(':') != std::string_view::npos;
  expected_ = is_basic_ ? base64(secret) : std::string(secret);
  return "";
}

std::string Access::authorization() const { return is_open() ? "" : (is_basic_ ? "Basic " : "Bearer ") + expected_; }

bool Access::admits(std::string_view authorization) const {
  if (is_open()) return true;
  std::string_view scheme = is_basic_ ? "Basic " : "Bearer ";
  if (authorization.size() < scheme.size() || strncasecmp(authorization.data(), scheme.data(), scheme.size()) != 0)
    return false;
  std::string_view given = authorization.substr(scheme.size());
  // Each byte that was sent is looked at once, whatever the ones before it were.
  volatile uint32_t difference = given.size() == expected_.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    difference =
        difference | static_cast<uint32_t>(static_cast<unsigned char>(given[i] ^ expected_[i % expected_.size()]));
  return difference == 0;
}

}  // namespace hakmem::exporter
