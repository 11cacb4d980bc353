"""One preloaded program under valgrind or perf: L1d misses, hardware counters, and what new slabs cost."""

import collections
import json
import re
import subprocess
import tempfile
from pathlib import Path

from allocators import Allocator
from errors import BenchError
from runner import Job, check_preload, environment

L1D = "32768,8,64"  # bytes, ways, line
COUNTERS = ("instructions:u", "cycles:u", "L1-dcache-loads:u", "L1-dcache-load-misses:u")
VALGRIND = ("valgrind", "--soname-synonyms=somalloc=NONE")  # without its own malloc in place of the preloaded one
SAMPLES_PER_SECOND = 4000

# The step of superslab_refill that a function belongs to with all it calls,
# the innermost one of a call chain. The first touch of a page is a page fault
# in the kernel, whoever touches.
STEPS = ("scan", "map", "metadata", "carve", "first touch")
STEP_OF = {
    "take_span": "scan",
    "find_superslab": "scan",
    "map_superslab": "map",
    "map_released": "map",
    "cut_span": "metadata",
    "carve": "carve",
}


def run_preloaded(tool: list[str], job: Job, allocator: Allocator) -> str:
    """Runs the job under a tool, preloaded; returns what the tool says on stderr."""
    preload = ["env", f"LD_PRELOAD={allocator.library}"]
    variables = environment()
    if tool[0] == "valgrind":  # would watch env instead of the program
        preload, variables = [], variables | {"LD_PRELOAD": allocator.library}
    variables |= allocator.environment
    result = subprocess.run([*tool, *preload, *job.command], env=variables, capture_output=True, text=True, check=False)
    message = (result.stderr.strip().splitlines() or ["no message"])[-1]
    what = f"{job.name} with {allocator.name} under {tool[0]}"
    if result.returncode != 0:
        raise BenchError(f"{what}: exit status {result.returncode}: {message}")
    check_preload(allocator, json.loads(result.stdout)["malloc"], what, message)
    return result.stderr


def simulated_misses(job: Job, allocator: Allocator) -> float:
    """L1d misses a data reference of the whole program, in cachegrind's model of the cache."""
    tool = [*VALGRIND, "--tool=cachegrind", "--cache-sim=yes", f"--D1={L1D}", "--cachegrind-out-file=/dev/null"]
    said = run_preloaded(tool, job, allocator)
    refs, misses = (
        int(re.search(rf"{what}: +([\d,]+)", said)[1].replace(",", "")) for what in ("D +refs", "D1 +misses")
    )
    return misses / refs


def counted(job: Job, allocator: Allocator) -> dict[str, float] | None:
    """Instructions a cycle and L1d misses a load by hardware counters; None where there are none."""
    try:
        said = run_preloaded(["perf", "stat", "-x,", "-e", ",".join(COUNTERS), "--"], job, allocator)
    except (BenchError, OSError):
        return None
    return read_counters(said)


def read_counters(said: str) -> dict[str, float] | None:
    counts = {}
    for line in said.splitlines():
        value, _, event, *_ = [*line.split(","), "", ""]
        if event in COUNTERS and value.isdecimal():
            counts[event] = int(value)
    if len(counts) < len(COUNTERS) or 0 in counts.values():
        return None
    instructions, cycles, loads, misses = (counts[event] for event in COUNTERS)
    return {"instructions_per_cycle": instructions / cycles, "l1d_misses_per_load": misses / loads}


def functions_at(library: str, addresses: set[int]) -> dict[int, list[str]]:
    """The functions that an instruction belongs to, inlined ones first, without scopes and parameters."""
    command = ["addr2line", "--exe", library, "--functions", "--inlines", "--demangle", "--addresses"]
    text = subprocess.run(command, input="\n".join(map(hex, addresses)), capture_output=True, text=True, check=True)
    functions: dict[int, list[str]] = {}
    for line in text.stdout.splitlines():
        if line.startswith("0x"):
            names = functions.setdefault(int(line, 16), [])
            is_name = True
            continue
        if is_name:
            names.append(line.replace("(anonymous namespace)::", "").partition("(")[0].rpartition("::")[2])
        is_name = not is_name
    return functions


def step_of(names: list[str]) -> str | None:
    return next((STEP_OF[name] for name in names if name in STEP_OF), None)


def sampled_shares(job: Job, library: Allocator) -> dict[str, float]:
    """Shares of CPU time by step, kernel included, by the CPU clock."""
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        tool = ["perf", "record", "-q", "-o", data, "-F", str(SAMPLES_PER_SECOND), "-e", "cpu-clock:uk"]
        run_preloaded([*tool, "--call-graph", "dwarf,1024", "--"], job, library)
        script = ["perf", "script", "-i", data, "--no-inline", "-F", "ip,sym,dso"]
        text = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    counts: collections.Counter = collections.Counter()
    chains = []
    for sample in text.split("\n\n"):
        frames = re.findall(r"^\s+([0-9a-f]+) (.*) \((.*)\)$", sample, re.M)
        user = [frame for frame in frames if not frame[2].startswith("[")]
        if any(symbol == "asm_exc_page_fault" for _, symbol, _ in frames):
            # The dynamic linker's faults are of files.
            is_linker = user and "/ld-linux" in user[0][2]
            counts[None if is_linker else "first touch"] += 1
        elif frames:
            # Above the first one stand return addresses: the call is the instruction before.
            own = [int(ip, 16) - (i > 0) for i, (ip, _, dso) in enumerate(user) if dso == library.library]
            chains.append(own)
    functions = functions_at(library.library, {address for chain in chains for address in chain})
    for chain in chains:
        counts[step_of([name for address in chain for name in functions[address]])] += 1
    return {step: counts[step] / counts.total() for step in STEPS}


def counted_shares(job: Job, library: Allocator) -> dict[str, float]:
    """Shares of instructions by step, without the kernel and so without first touch, by callgrind."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"]
        tool = [*VALGRIND, "--tool=callgrind", *options, f"--callgrind-out-file={folder}/out"]
        run_preloaded(tool, job, library)
        profile = Path(folder, "out").read_text(encoding="utf-8", errors="replace")
    # https://valgrind.org/docs/manual/cl-format.html; the line after "calls=" is the callee's.
    costs: collections.Counter = collections.Counter()
    current, is_callee = "", False
    for line in profile.splitlines():
        if line.startswith("ob="):
            current = line[3:]
        elif line.startswith("0x") and not is_callee:
            address, _, cost = line.split()
            costs[int(address, 16) if current == library.library else None] += int(cost)
        is_callee = line.startswith("calls=")
    functions = functions_at(library.library, {address for address in costs if address is not None})
    shares: collections.Counter = collections.Counter()
    for address, cost in costs.items():
        shares[step_of(functions.get(address, []))] += cost / costs.total()
    return {step: shares[step] for step in STEPS}


def can_sample() -> bool:
    """Whether perf is there and may see the kernel's part."""
    command = ["perf", "record", "-q", "-o", "/dev/null", "-e", "cpu-clock:uk", "--", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
