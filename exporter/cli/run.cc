#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "allocator/base/environment.h"
#include "exporter/cli/commands.h"

namespace hakmem::cli {
namespace {

constexpr const char* kLibrary = "libhakmem-telemetry.so";

// Beside this program, as in the build tree, or where it is installed.
std::string find_library() {
  namespace fs = std::filesystem;
  fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& candidate : {folder / kLibrary, folder / HAKMEM_LIBRARY_FOLDER / kLibrary})
    if (fs::exists(candidate)) return fs::canonical(candidate);
  return "";
}

}  // namespace

int run(const Arguments& arguments) {
  size_t first = 0;
  std::string listen;
  if (arguments.size() >= 2 && arguments[0] == "--listen") {
    listen = arguments[1];
    first = 2;
    ListenAddress address;
    if (!parse_listen_address(listen.c_str(), &address))
      return wrong_use("--listen wants an IPv4 address and a port, such as 127.0.0.1:19464");
  }
  if (first == arguments.size() || arguments[first].starts_with("--"))
    return wrong_use("usage: hakmem run [--listen HOST:PORT] PROGRAM [ARGUMENT...]");
  std::string library = find_library();
  if (library.empty()) return wrong_use(std::string(kLibrary) + " is not where it was installed");

  const char* others = getenv("LD_PRELOAD");
  std::string preload = others != nullptr && *others != '\0' ? library + ":" + others : library;
  setenv("LD_PRELOAD", preload.c_str(), 1);
  if (!listen.empty()) setenv("HAKMEM_LISTEN", listen.c_str(), 1);
  std::vector<char*> values;
  for (size_t i = first; i < arguments.size(); ++i) values.push_back(const_cast<char*>(arguments[i].c_str()));
  values.push_back(nullptr);
  execvp(values[0], values.data());
  int error = errno;
  wrong_use(arguments[first] + ": " + strerror(error));
  return error == ENOENT ? 127 : 126;
}

}  // namespace hakmem::cli
