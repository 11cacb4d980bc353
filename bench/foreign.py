"""Programs that are not ours: what serves their malloc, how one is run and checked."""

import functools
import hashlib
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from allocators import Allocator
from errors import BenchError
from inputs import Generate, prepared
from runner import Job, Outcome, measure, usage_curve, usage_sample

SCRIPTS = Path(__file__).resolve().parent / "programs"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"}


def package_version(package: str) -> str:
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "unknown version"


def script_digest(name: str) -> str:
    return f"{name} {hashlib.sha256((SCRIPTS / name).read_bytes()).hexdigest()[:12]}"


@functools.cache
def malloc_provider(command: tuple[str, ...], library: str | None) -> str:
    """The file that the dynamic linker binds malloc to in the command's processes.

    Such programs cannot be asked themselves, and a library that is mapped need
    not be the one that is called.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = ENVIRONMENT | {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": f"{folder}/bindings"}
        if library is not None:
            environment["LD_PRELOAD"] = library
        result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        text = "".join(path.read_text(errors="replace") for path in Path(folder).iterdir())
    if result.returncode != 0:
        message = result.stderr.decode(errors="replace").strip()
        raise BenchError(f"{' '.join(command)} with {library}: exit status {result.returncode}: {message}")
    files = set(re.findall(r"to (\S+) \[\d+\]: normal symbol `malloc'", text))
    # An executable that takes malloc's address has an entry of that name, which leads on to a library.
    providers = {file for file in files if ".so" in Path(file).name} or files
    return ", ".join(sorted(providers)) or "nowhere"


@dataclass(frozen=True)
class Program:
    """One run of a program of Debian; {input}, {scratch} and {scripts} stand for folders in its command."""

    name: str
    description: str
    package: str
    command: tuple[str, ...]
    probe: tuple[str, ...]  # a short run of the same executables, to see where their malloc comes from
    generate: Generate | None = None  # writes the input
    outputs: str = ""  # files in the scratch folder that must not depend on the allocator, as a pattern
    witness: str = ""  # what in the standard output must not, where that is not all of it

    def missing(self) -> str | None:
        """What is not there, if anything."""
        return None if os.access(self.probe[0], os.X_OK) else self.probe[0]

    def arguments(self) -> list[str]:
        """What the work depends on, for result files: those of other work must not be compared."""
        scripts = re.findall(r"{scripts}/(\S+)", " ".join(self.command))
        folder = [prepared(self.generate).name] if self.generate else []
        return [*self.command, *map(script_digest, scripts), *folder, package_version(self.package)]

    def run(self, build_dir: Path, allocator: Allocator) -> Outcome:
        """As that of runner.Job."""
        provider = malloc_provider(self.probe, allocator.library)
        folder = prepared(self.generate) if self.generate else None
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            command = [word.format(input=folder, scratch=scratch, scripts=SCRIPTS) for word in self.command]

            def parse(stdout: str, usage: dict) -> Outcome:
                checksum = self.checksum(stdout, Path(scratch))
                return Outcome(provider, {self.name: usage_sample(usage)}, checksum, usage_curve(usage))

            return measure(build_dir, allocator, Job(self.name, command, parse))

    def checksum(self, stdout: str, scratch: Path) -> str:
        digest = hashlib.sha256()
        if self.witness:
            digest.update("".join(re.findall(self.witness, stdout)).encode())
        else:
            digest.update(stdout.encode())
        for path in sorted(scratch.glob(self.outputs)) if self.outputs else []:
            digest.update(path.read_bytes())
        return digest.hexdigest()
