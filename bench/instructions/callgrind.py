"""Counts an allocator's instructions: one row of bench_instructions under callgrind."""

import collections
import os
import pathlib
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

# In the order of the table; what each does stands in workload.cc.
ROWS = (
    "pair", "pair16", "fifo", "random", "steady16k", "remote", "2k", "20k", "100k", "2k_x10", "20k_x10", "100k_x10",
    "calloc64", "aligned64", "new48", "realloc_same", "realloc_grow", "mixed",
)  # fmt: skip


# What hakmem's telemetry does by the clock (before there is a stats page, by each 512 KiB of fresh memory), and not by
# the call: no part of what a call costs, and under valgrind, which is slow, it comes far too often.
BY_THE_CLOCK = "hakmem::telemetry::(anonymous namespace)::work_on_transition("


class CallgrindError(Exception):
    pass


@dataclass(frozen=True)
class Cost:
    """Of a row, for each pair or call, without what the workload itself executes."""

    instructions: float
    system_calls: float


@dataclass
class Profile:
    """A dump of callgrind: what each function of each object file, by its real path, did itself."""

    label: str
    costs: dict[str, collections.Counter]  # event: (object file, function): count
    by_the_clock: int = 0  # instructions, of `costs`


def read_profile(path: pathlib.Path) -> Profile:
    """Format: https://valgrind.org/docs/manual/cl-format.html.

    Names are written once, as "(7) name", and later as "(7)"; the line after
    "calls=" is the inclusive cost of a call and belongs to the callee.
    """
    profile = Profile("", collections.defaultdict(collections.Counter))
    events, names, here, callee, skip = [], {}, {"ob": "", "fn": ""}, "", False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?$", line)
        if match:
            is_callee, kind, number, name = match.groups()
            if name is not None:
                names[kind, number] = os.path.realpath(name) if kind == "ob" else name
            if not is_callee:
                here[kind] = names[kind, number]
            elif kind == "fn":
                callee = names[kind, number]
        elif line.startswith("events:"):
            events = line.split()[1:]
        elif line.startswith("desc: Trigger: Client Request: "):
            profile.label = line.split(": ", 3)[3]
        elif line.startswith("calls="):
            skip = True
        elif re.match(r"[+*\-0-9]", line):
            if not skip:
                # Zeros at the end of a line are left out.
                for event, count in zip(events, line.split()[1:]):
                    profile.costs[event][here["ob"], here["fn"]] += int(count)
            elif callee.startswith(BY_THE_CLOCK):
                profile.by_the_clock += int(line.split()[1])
            skip = False
    return profile


def environment_of(library: str | None, settings: dict[str, str]) -> dict[str, str]:
    """`settings`, and nothing of the caller's that configures an allocator."""
    preload = {"LD_PRELOAD": library} if library else {}
    return {"PATH": os.environ.get("PATH", ""), **settings, **preload}


def command_of(directory: pathlib.Path, program: str, argument: str) -> list[str]:
    # Without randomised addresses, so that two runs take the same paths;
    # without valgrind's own malloc in place of the one that is measured.
    return ["setarch", platform.machine(), "-R", "valgrind", "--tool=callgrind", "--collect-systime=yes",
            "--soname-synonyms=somalloc=NONE", f"--callgrind-out-file={directory}/out", program, argument]  # fmt: skip


def read_dumps(directory: pathlib.Path) -> Iterator[Profile]:
    """Those the program asked for, in order; what came after them is in another file."""
    for path in sorted(directory.glob("out.*"), key=lambda path: int(path.suffix[1:])):
        yield read_profile(path)


def measure(workload: str, row: str, library: str | None, settings: dict[str, str] | None = None) -> Cost:
    """The cost of a row of the program `workload` with `library` preloaded, or with the C library's own malloc."""
    workload = os.path.realpath(workload)
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        result = subprocess.run(command_of(directory, workload, row), env=environment_of(library, settings or {}),
                                capture_output=True, text=True, check=False)  # fmt: skip
        calls = re.search(r"^calls (\d+)$", result.stderr, flags=re.M)
        if result.returncode != 0 or not calls:
            raise CallgrindError(f"callgrind of {row} with {library} failed:\n{result.stderr[-2000:]}")
        # The first dump is of what came before the measurement.
        costs = [_cost(profile, workload, int(calls[1])) for profile in read_dumps(directory)][1:]
    if row == "pair":
        # Each dump is one pair; the usual one is that without a refill.
        usual, often = collections.Counter(costs).most_common(1)[0]
        if usual.instructions == 0 or often * 2 < len(costs):
            raise CallgrindError(f"no usual cost of a pair with {library}: {[cost.instructions for cost in costs]}")
        return usual
    return costs[0]


def _cost(profile: Profile, workload: str, calls: int) -> Cost:
    instructions = sum(count for (file, _), count in profile.costs["Ir"].items() if file != workload)
    instructions -= profile.by_the_clock
    # The clock is read without a system call where there is no valgrind.
    system_calls = sum(count for (file, function), count in profile.costs["sysCount"].items()
                       if file != workload and not function.startswith("clock_gettime"))  # fmt: skip
    return Cost(instructions / calls, system_calls / calls)
