#!/usr/bin/env python3
"""Runs the benchmarks under hakmem and its peers, and compares result files."""

import argparse
import json
import signal
import sys
from pathlib import Path

import plots
import telemetry_cost
from allocators import HAKMEM, find_allocators
from compare import compare
from document import DEFAULT_BUILD_DIR, check_writable, measure_document
from errors import BenchError
from misses import misses
from programs import PROGRAMS, selected_programs
from refill_tables import refill
from report import RSS, TIME, results, standing
from runner import Job, macro_jobs, micro_outcome
from workloads import FULL_RUNS, MICRO_MIN_TIME_FULL, MICRO_MIN_TIME_QUICK, QUICK_RUNS, selected_workloads


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Runs the benchmarks under hakmem, glibc and Debian's jemalloc, mimalloc and tcmalloc, each "
        "preloaded under the same programs, in random order.",
        epilog="./run bench compare BEFORE.json AFTER.json compares two result files, ./run bench refill measures "
        "refill batches and what new slabs cost, ./run bench misses L1d misses, ./run bench telemetry what telemetry costs; "
        "each has its --help.",
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs of the same heaps; ends in two minutes")
    parser.add_argument("--runs", type=int, help=f"runs of each (default {FULL_RUNS}, with --quick {QUICK_RUNS})")
    parser.add_argument("--micro", action="store_true", help="the micro benchmarks in place of the workloads")
    parser.add_argument("--programs", action="store_true", help="real programs of Debian in place of the workloads")
    parser.add_argument(
        "--drawn", metavar="N", type=int, help="workloads drawn from seeds 1 to N in place of the workloads"
    )
    parser.add_argument("--only", metavar="NAMES", help="only these tests, separated by commas (micro: name prefixes)")
    parser.add_argument(
        "--with",
        dest="added",
        metavar="NAME=PATH[,VARIABLE=VALUE]",
        action="append",
        default=[],
        help="one more library, and what it needs in the environment",
    )
    parser.add_argument("--without", metavar="NAME", action="append", default=[], help="leave an allocator out")
    parser.add_argument("--json", metavar="FILE", help="write the result file for `compare`")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw the results, as PNG and SVG")
    parser.add_argument(
        "--at-most",
        metavar="RATIO",
        type=float,
        help="exit with 1 if hakmem's time or peak RSS is above RATIO times the best peer's, by geometric mean",
    )
    parser.add_argument("--list", action="store_true", help="show workloads, arguments and allocators, and run nothing")
    parser.add_argument("--build-dir", type=Path, default=DEFAULT_BUILD_DIR, help="where the programs are built")
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = QUICK_RUNS if options.quick else FULL_RUNS
    if sum(map(bool, (options.micro, options.programs, options.drawn))) > 1:
        parser.error("--micro, --programs and --drawn are runs of their own")
    if options.drawn is not None and options.drawn < 1:
        parser.error("--drawn must be at least 1")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    options.build_dir = options.build_dir.resolve()
    return options


def parse_compare_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run bench compare",
        description="Says for each test whether AFTER is better, worse or the same as BEFORE; "
        "the exit status is 1 if any got significantly worse.",
    )
    parser.add_argument("before", metavar="BEFORE.json")
    parser.add_argument("after", metavar="AFTER.json")
    parser.add_argument("--allocator", default=HAKMEM, help=f"whose figures to take (default {HAKMEM})")
    parser.add_argument("--against", help="another allocator to take from AFTER.json")
    return parser.parse_args(arguments)


def micro_arguments(only: str | None, quick: bool) -> list[str]:
    names = "|".join(only.split(",")) if only else ""
    return [
        "--benchmark_format=json",
        f"--benchmark_min_time={MICRO_MIN_TIME_QUICK if quick else MICRO_MIN_TIME_FULL}",
        f"--benchmark_filter={f'^({names})' if names else '.'}",
    ]


def show_list(options: argparse.Namespace) -> None:
    for program in PROGRAMS if options.programs else ():
        print(f"{program.name}: {program.description}")
    for workload in () if options.programs else selected_workloads(None, options.quick, options.drawn):
        print(f"{workload.name}: {workload.description}" + ("" if workload.quick else " (full runs only)"))
        print(f"    {workload.program} {' '.join(workload.arguments(options.quick))}")
    for allocator in find_allocators(options.build_dir, options.added, options.without):
        print(f"{allocator.name}: {allocator.version}" + (f", {allocator.library}" if allocator.library else ""))


def run_bench(options: argparse.Namespace) -> int:
    allocators = find_allocators(options.build_dir, options.added, options.without)
    if options.at_most is not None and (HAKMEM in options.without or not any(a.peer for a in allocators)):
        raise BenchError("--at-most needs hakmem and a peer")
    if options.micro:
        kind = "micro"
        arguments = micro_arguments(options.only, options.quick)
        jobs = [Job("micro", [str(options.build_dir / "bench" / "bench_micro"), *arguments], micro_outcome)]
    elif options.programs:
        kind = "programs"
        jobs = selected_programs(options.only)
        arguments = {program.name: program.arguments() for program in jobs}
    else:
        kind = "macro"
        workloads = selected_workloads(options.only, options.quick, options.drawn)
        jobs = macro_jobs(options.build_dir, workloads, options.quick)
        arguments = {workload.name: workload.arguments(options.quick) for workload in workloads}
    check_writable(options.json)
    if options.plots:
        plots.prepare(options.plots)
    length = "quick" if options.quick else "full"
    document = measure_document(options.build_dir, kind, length, jobs, allocators, options.runs)
    document["tests"] = {test: arguments if options.micro else arguments[test] for test in document["samples"]}
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(results(document), end="", flush=True)
    if options.plots:
        plots.draw(document, options.plots)
    return 0 if options.at_most is None else check_limit(document, options.at_most)


def check_limit(document: dict, limit: float) -> int:
    """Exit status of --at-most: 1, and a line that says why, if hakmem is above the limit."""
    against = standing(document, HAKMEM)
    above = [title for title in (TIME.title, RSS.title) if against.get(title, 0) > limit]
    for title in above:
        message = f"hakmem, {title.lower()}: {against[title]:.3f} of the best peer's is above {limit}"
        print(f"bench: {message}", file=sys.stderr)
    return 1 if above else 0


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["compare"]:
            options = parse_compare_arguments(arguments[1:])
            return compare(options.before, options.after, options.allocator, options.against or options.allocator)
        if arguments[:1] == ["refill"]:
            return refill(arguments[1:])
        if arguments[:1] == ["misses"]:
            return misses(arguments[1:])
        if arguments[:1] == ["telemetry"]:
            return telemetry_cost.main(arguments[1:])
        options = parse_arguments(arguments)
        if options.list:
            show_list(options)
            return 0
        return run_bench(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    sys.exit(main(sys.argv[1:]))
