// Who may ask: everybody, or who knows the secret of a file.
#pragma once

#include <string>
#include <string_view>

namespace hakmem::exporter {

class Access {
 public:
  // Everybody.
  Access() = default;

  // Who sends what stands in the file: "USER:PASSWORD" by basic authentication, or
  // a bearer token, which has no colon. Returns "", or why the file is not taken; it
  // must not be readable by others nor writable by its group, must belong to this
  // process's user or to root, and holds one line of 8 to 256 printable characters.
  std::string read_secret(const char* path);

  bool is_open() const { return expected_.empty(); }

  // Whether the value of an Authorization header is the right one. Takes as long
  // for a wrong one as for one that is nearly right.
  bool admits(std::string_view authorization) const;

  // The Authorization header's value of a client that knows the secret; "" for everybody.
  std::string authorization() const;

  // What a refused client is told to send, for WWW-Authenticate.
  const char* challenge() const { return is_basic_ ? "Basic realm=\"hakmem\"" : "Bearer realm=\"hakmem\""; }

 private:
  bool is_basic_ = false;
  std::string expected_;  // token, or user and password in base64
};

}  // namespace hakmem::exporter
