"""Finding the allocators to compare, with their versions."""

import hashlib
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from errors import BenchError

HAKMEM = "hakmem"
GLIBC = "glibc"

# Name, shared object and Debian package of the peers that are always there.
DEBIAN_PEERS = (
    ("jemalloc", "libjemalloc.so.2", "libjemalloc2"),
    ("mimalloc", "libmimalloc.so.2", "libmimalloc2.0"),
    ("tcmalloc", "libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
)


@dataclass(frozen=True)
class Allocator:
    name: str
    library: str | None  # path to preload, None for the C library's own malloc
    version: str
    peer: bool  # counts for "best peer": neither hakmem nor the C library
    sha256: str | None
    environment: dict[str, str] = field(default_factory=dict)  # what it needs set to work as meant

    def as_json(self) -> dict:
        return asdict(self)


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _find_library(soname: str) -> Path | None:
    """Looks `soname` up where the dynamic linker does."""
    for line in (_output_of(["/sbin/ldconfig", "-p"]) or _output_of(["ldconfig", "-p"])).splitlines():
        match = re.match(rf"\s*{re.escape(soname)} \(.*x86-64.*\) => (\S+)", line)
        if match:
            return Path(match[1])
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib", "/usr/lib"):
        if (Path(folder) / soname).exists():
            return Path(folder) / soname
    return None


def _package_version(package: str) -> str:
    return _output_of(["dpkg-query", "--show", "--showformat=${Version}", package]).strip() or "unknown version"


def preloaded(
    name: str, path: Path, version: str, peer: bool, environment: dict[str, str] | None = None
) -> Allocator:
    path = path.resolve()
    return Allocator(name, str(path), version, peer, hashlib.sha256(path.read_bytes()).hexdigest(), environment or {})


def _debian_peer(name: str, soname: str, package: str) -> Allocator:
    path = _find_library(soname)
    if path is None:
        raise BenchError(
            f"{name}: {soname} is not installed: apt-get install {package} (or leave it out: --without {name})"
        )
    return preloaded(name, path, f"{package} {_package_version(package)}", peer=True)


def _hakmem(build_dir: Path) -> Allocator:
    path = build_dir / "libhakmem.so"
    if not path.exists():
        raise BenchError(f"{path} is missing: ./run build release (or leave it out: --without {HAKMEM})")
    version = _output_of(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]).strip()
    return preloaded(HAKMEM, path, version or "unknown version", peer=False)


def _with_argument(argument: str) -> Allocator:
    """NAME=PATH[,VARIABLE=VALUE]...: a library, and what it needs in the environment."""
    library, *settings = argument.split(",")
    name, _, path = library.partition("=")
    environment = dict(setting.partition("=")[::2] for setting in settings)
    if not name or not path or not all(re.fullmatch(r"\w+=.*", setting) for setting in settings):
        raise BenchError(f"--with {argument}: must be NAME=PATH or NAME=PATH,VARIABLE=VALUE")
    if not Path(path).is_file():
        raise BenchError(f"--with {argument}: there is no file {path}")
    return preloaded(name, Path(path), " ".join([f"file {path}", *settings]), peer=True, environment=environment)


def find_allocators(build_dir: Path, added: list[str], left_out: list[str]) -> list[Allocator]:
    """The contestants: hakmem, glibc, Debian's peers, then those of --with."""
    finders = {
        HAKMEM: lambda: _hakmem(build_dir),
        GLIBC: lambda: Allocator(GLIBC, None, f"libc6 {_package_version('libc6')}", False, None),
    }
    for name, soname, package in DEBIAN_PEERS:
        finders[name] = lambda n=name, s=soname, p=package: _debian_peer(n, s, p)
    for argument in added:
        name = argument.partition("=")[0]
        if name in finders:
            raise BenchError(f"--with {argument}: there is a {name} already; give it another name")
        finders[name] = lambda a=argument: _with_argument(a)
    for name in left_out:
        if name not in finders:
            raise BenchError(f"--without {name}: no such allocator; there are {', '.join(finders)}")
    found = [finder() for name, finder in finders.items() if name not in left_out]
    if not found:
        raise BenchError("every allocator was left out")
    return found
