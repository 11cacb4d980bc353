"""The release library built with other constants, beside the presets."""

import subprocess
import sys

from allocators import Allocator, preloaded
from document import ROOT
from errors import BenchError


def build_variant(folder: str, name: str, definitions: str, description: str) -> Allocator:
    """Built into build/FOLDER with `definitions`, options of the preprocessor."""
    path = ROOT / "build" / folder
    print(f"bench: building with {description}", file=sys.stderr, flush=True)
    configure = ["cmake", "-S", str(ROOT), "-B", str(path), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    configure += ["-DHAKMEM_BUILD=release", "-DHAKMEM_TESTS=OFF", f"-DCMAKE_CXX_FLAGS={definitions}"]
    for command in (configure, ["cmake", "--build", str(path), "--target", "hakmem"]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BenchError(f"{description} does not build:\n{(result.stdout + result.stderr)[-2000:]}")
    return preloaded(name, path / "libhakmem.so", description, peer=False)
