#!/usr/bin/env python3
"""Hold the allocator's instructions, as callgrind counts them, against a golden file.

    instructions.py [--update] --workload PROGRAM --release LIBRARY --telemetry LIBRARY [--compiler NAME]

The rows are those of bench/instructions, whose folder must be on PYTHONPATH: instructions for each pair of malloc and
free, or for each call, with what they execute in libc. No figure may grow against instructions.json. Two hold between
the builds as well:

  pair   malloc(16) and its free, when neither has to refill: telemetry executes exactly as many as release
  mixed  10^6 calls of the whole family with bursts, retirements, large and huge sizes: telemetry executes at most
         1 % more than release (nobody follows the samples here)

After a change that is worth its instructions, write the file anew with --update and commit it.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

from callgrind import ROWS, CallgrindError, measure

GOLDEN = pathlib.Path(__file__).with_name("instructions.json")
BUILDS = ("release", "telemetry")
TIMES = {"release": 1, "telemetry": 2}
TIMES_IN_DOUBT = 6
# What is left are looks at bins and counts at refills (docs/measurements.md).
TELEMETRY_MARGIN = 1.01
GROWTH = 0.02  # share; of pair: GROWTH_OF_PAIR instructions
GROWTH_OF_PAIR = 0.5


def least(workload, row, library, times):
    """The figure of a row. What telemetry does by the clock now and then comes on top of it: the least of some runs."""
    return round(min(measure(workload, row, library).instructions for _ in range(times)), 2)


def measure_all(workload, libraries):
    """The figures of each build, by row."""
    jobs = list(itertools.product(BUILDS, ROWS))
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda job: least(workload, job[1], libraries[job[0]], TIMES[job[0]]), jobs)
        by_job = dict(zip(jobs, results))
    return {build: {row: by_job[build, row] for row in ROWS} for build in BUILDS}


def compare_builds(figures, measure_again):
    """Yield what is wrong between release and telemetry."""
    release, telemetry = figures["release"], figures["telemetry"]
    if telemetry["mixed"] > release["mixed"] * TELEMETRY_MARGIN:
        telemetry["mixed"] = min(telemetry["mixed"], measure_again("telemetry", "mixed"))
    if telemetry["pair"] != release["pair"]:
        yield f"malloc(16) and free execute {telemetry['pair']} instructions in telemetry, {release['pair']} in release"
    if telemetry["mixed"] > release["mixed"] * TELEMETRY_MARGIN:
        share = 100 * (telemetry["mixed"] / release["mixed"] - 1)
        yield f"mixed calls execute {share:.2f} % more instructions in telemetry than in release"


def compare_golden(figures, golden, measure_again):
    """Yield what grew; print what shrank so far that the golden file should follow."""
    for build, measured in figures.items():
        for row, now in measured.items():
            before = golden[build][row]
            room = GROWTH_OF_PAIR if row == "pair" else before * GROWTH
            if now > before + room and TIMES[build] > 1:
                now = measure_again(build, row)
            if now > before + room:
                yield f"{build} {row} grew from {before} to {now} instructions"
            elif now < before - room:
                print(f"note: {build} {row} fell from {before} to {now}; keep it with --update")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the golden file from this measurement")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--telemetry", required=True)
    parser.add_argument("--compiler", default="unknown")
    arguments = parser.parse_args()
    libraries = {build: getattr(arguments, build) for build in BUILDS}
    for library in libraries.values():
        if not os.path.exists(library):
            sys.exit(f"{library} is not built: ./run build release telemetry")

    try:
        figures = measure_all(arguments.workload, libraries)
    except CallgrindError as error:
        sys.exit(str(error))
    print(f"{'':14}" + "".join(f"{build:>12}" for build in BUILDS))
    for row in ROWS:
        print(f"{row:14}" + "".join(f"{figures[build][row]:12.2f}" for build in BUILDS))

    def measure_again(build, row):
        return least(arguments.workload, row, libraries[build], TIMES_IN_DOUBT)

    problems = list(compare_builds(figures, measure_again))

    if arguments.update:
        GOLDEN.write_text(json.dumps({"compiler": arguments.compiler, **figures}, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {GOLDEN}")
    else:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        compiler = golden.pop("compiler")
        if compiler != arguments.compiler:
            print(f"note: the golden file is of {compiler}, this is {arguments.compiler}: only the builds are compared")
        else:
            growth = list(compare_golden(figures, golden, measure_again))
            problems += growth
            if growth:
                problems.append("if the growth is worth it: ./run build release telemetry, then cmake --build "
                                "build/telemetry --target golden_update, and commit tests/golden/instructions.json "
                                "with the reason")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
