"""`./run bench misses`: L1d misses of each workload under each allocator, in cachegrind's model of a 32 KiB cache."""

import argparse
import math
import os
import sys
from pathlib import Path

from allocators import Allocator, find_allocators
from document import DEFAULT_BUILD_DIR
from errors import BenchError
from profilers import L1D, simulated_misses
from refill_tables import MUCH_SHORTER, each, job_of
from report import table
from runner import Job
from workloads import selected_workloads


def misses_or_infinity(job: Job, allocator: Allocator) -> float:
    """Infinity where the allocator does not run under valgrind."""
    try:
        return simulated_misses(job, allocator)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr, flush=True)
        return math.inf


def misses_table(misses: dict[str, dict[str, float]], peers: set[str]) -> str:
    """A row a test: the rate of each, and its ratio to the best peer's."""
    names = list(next(iter(misses.values())))
    rows = []
    for test, by_name in misses.items():
        best = min((rate for name, rate in by_name.items() if name in peers), default=math.inf)
        cells = ["-" if math.isinf(r) else f"{100 * r:.2f}" + ("" if math.isinf(best) else f" ({r / best:.2f})")
                 for r in by_name.values()]  # fmt: skip
        rows.append([test, *cells])
    return f"### L1d misses, % of data references, cachegrind with {L1D} (against the best peer)\n\n" + table(
        ["test", *names], rows
    )


def misses(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run bench misses", description=__doc__.partition(": ")[2])
    parser.add_argument("--only", metavar="NAMES", help="only these workloads, separated by commas")
    parser.add_argument("--with", dest="added", metavar="LIBRARY", action="append", default=[], help="one more library")
    parser.add_argument("--without", metavar="NAME", action="append", default=[], help="leave an allocator out")
    parser.add_argument("--build-dir", type=Path, default=DEFAULT_BUILD_DIR, help="where the programs are built")
    options = parser.parse_args(arguments)
    build_dir = options.build_dir.resolve()
    # The C library's own malloc is not preloaded.
    allocators = [a for a in find_allocators(build_dir, options.added, options.without) if a.library is not None]
    jobs = [job_of(build_dir, workload, MUCH_SHORTER) for workload in selected_workloads(options.only, quick=False)]
    processors = len(os.sched_getaffinity(0))
    results = each("cachegrind", jobs, allocators, processors, misses_or_infinity)
    print(misses_table(results, {allocator.name for allocator in allocators if allocator.peer}))
    return 0
