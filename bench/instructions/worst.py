"""Finds the longest single call of each kind in bench_worst: instructions by callgrind, system calls by strace."""

import collections
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from callgrind import CallgrindError, command_of, environment_of, read_dumps

# As in worst.cc, in the order of its enumerators and phases.
KINDS = ("malloc to 1 KiB", "malloc to 1 MiB", "malloc above", "free to 1 KiB", "free to 1 MiB", "free above")
PHASES = ("mixed", "bursts", "holes", "sieve", "huge", "remote", "threads")
CALL_ENDS, FIRST_KIND, FIRST_PHASE = -999, -1000, -2000

SYSTEM_CALLS = "mmap,munmap,madvise,mprotect,mremap,brk,futex,prlimit64"


@dataclass
class Longest:
    """Of one kind of call; a cause is the phase and what the call spent most on, or the system calls."""

    instructions: int = 0
    instructions_cause: str = ""
    system_calls: int = 0
    system_calls_cause: str = ""


def find_longest(program: Path, library: str | None, settings: dict[str, str]) -> dict[str, Longest]:
    longest = {kind: Longest() for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        _count_instructions(longest, str(program), library, settings, Path(directory))
        _count_system_calls(longest, str(program), library, settings, Path(directory))
    return longest


def _run(command: list[str], environment: dict[str, str]) -> None:
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CallgrindError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")


def _count_instructions(longest, program, library, settings, directory):
    _run(command_of(directory, program, "dumps"), environment_of(library, settings))
    for profile in read_dumps(directory):
        kind, _, phase = profile.label.partition(", ")
        if kind not in longest:
            continue
        by_function = collections.Counter()
        for (file, function), count in profile.costs["Ir"].items():
            if file != os.path.realpath(program):
                name = function.replace("(anonymous namespace)::", "").replace("hakmem::", "")
                by_function[re.sub(r"\(.*|<.*>|\[.*|@.*", "", name).strip()] += count
        entry = longest[kind]
        if by_function.total() > entry.instructions:
            entry.instructions = by_function.total()
            most = ", ".join(f"{name} {count}" for name, count in by_function.most_common(2))
            entry.instructions_cause = f"{phase}: {most}"


@dataclass
class _Thread:
    kind: str | None = None
    calls: collections.Counter = field(default_factory=collections.Counter)


def _count_system_calls(longest, program, library, settings, directory):
    preload = [f"--env=LD_PRELOAD={library}"] if library else []
    _run(["strace", "-f", "--seccomp-bpf", f"--trace=close,{SYSTEM_CALLS}", *preload, f"--output={directory}/calls",
          program, "marks"], environment_of(None, settings))  # fmt: skip
    threads, phase = collections.defaultdict(_Thread), ""
    for line in (directory / "calls").open(encoding="utf-8"):
        match = re.match(r"(\d+) +(\w+)\((-?\d+)?", line)
        if not match:
            continue  # the second half of a call, or the end of a thread
        pid, name, number = match.groups()
        thread, number = threads[pid], int(number or 0)
        if name != "close":
            thread.calls[name] += 1
        elif number <= FIRST_PHASE:
            phase = PHASES[FIRST_PHASE - number]
        elif number <= FIRST_KIND:
            thread.kind = KINDS[FIRST_KIND - number]
            thread.calls.clear()
        elif number == CALL_ENDS and thread.kind is not None:
            entry = longest[thread.kind]
            if thread.calls.total() > entry.system_calls:
                entry.system_calls = thread.calls.total()
                most = ", ".join(f"{count} {call}" for call, count in thread.calls.most_common())
                entry.system_calls_cause = f"{phase}: {most}"
            thread.kind = None
