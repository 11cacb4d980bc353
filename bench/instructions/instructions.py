#!/usr/bin/env python3
"""Counts by callgrind what a malloc and its free execute inside the allocator, for hakmem and others in one table.

    bench/instructions/instructions.py [--with NAME=PATH[,VARIABLE=VALUE]] [--without NAME] [--only ROWS]

The figures are instructions for each pair of malloc and free (of realloc_same, realloc_grow and mixed: for each
call), with what they execute in libc but without the program's own: the second half of twice as many rounds, so
neither start-up nor warm-up. Behind a plus: system calls for each 1,000 pairs, which callgrind sees no instructions of.

With --worst: the longest single call of each kind in a hostile program, in instructions and in system calls, and what
it did. Needs strace.

`./run build release` builds the programs and hakmem.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from allocators import Allocator, find_allocators  # noqa: E402
from callgrind import ROWS, CallgrindError, Cost, measure  # noqa: E402
from errors import BenchError  # noqa: E402
from worst import KINDS, find_longest  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ROWS", help=f"only these rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--with", dest="added", metavar="LIBRARY", action="append", default=[], help="another one")
    parser.add_argument("--without", metavar="NAME", action="append", default=[], help="leave an allocator out")
    parser.add_argument("--worst", action="store_true", help="the longest single calls in place of the rows")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "release", help="where they are built")
    options = parser.parse_args()
    options.rows = options.only.split(",") if options.only else list(ROWS)
    for row in options.rows:
        if row not in ROWS:
            parser.error(f"--only {row}: no such row; there are {', '.join(ROWS)}")
    return options


def cell(program: Path, row: str, allocator: Allocator) -> str:
    try:
        return show(measure(str(program), row, allocator.library, allocator.environment))
    except CallgrindError as error:
        print(error, file=sys.stderr)
        return "failed"


def show(cost: Cost) -> str:
    system_calls = 1000 * cost.system_calls
    return f"{cost.instructions:.1f}" + (f" +{system_calls:.3g}" if system_calls >= 0.5 else "")


def print_line(cells: list[str]) -> None:
    print("| " + " | ".join(f"{text:>{14 if i else 12}}" for i, text in enumerate(cells)) + " |", flush=True)


def compare_rows(options: argparse.Namespace, allocators: list[Allocator]) -> bool:
    program = options.build_dir / "bench" / "bench_instructions"
    print_line(["row", *(allocator.name for allocator in allocators)])
    print_line(["-" * 12, *("-" * 13 + ":" for _ in allocators)])
    failed = False
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for row in options.rows:
            cells = list(pool.map(lambda allocator, row=row: cell(program, row, allocator), allocators))
            print_line([row, *cells])
            failed |= "failed" in cells
    return not failed


def compare_worst(options: argparse.Namespace, allocators: list[Allocator]) -> bool:
    program = options.build_dir / "bench" / "bench_worst"
    print("| call | allocator | instructions | in | system calls | in |\n|---|---|---:|---|---:|---|")
    failed = False
    for allocator in allocators:
        try:
            longest = find_longest(program, allocator.library, allocator.environment)
        except CallgrindError as error:
            print(error, file=sys.stderr)
            failed = True
            continue
        for kind in KINDS:
            entry = longest[kind]
            print(f"| {kind} | {allocator.name} | {entry.instructions:,} | {entry.instructions_cause} "
                  f"| {entry.system_calls} | {entry.system_calls_cause} |", flush=True)  # fmt: skip
    return not failed


def main() -> int:
    options = parse_arguments()
    try:
        allocators = find_allocators(options.build_dir, options.added, options.without)
    except BenchError as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    compare = compare_worst if options.worst else compare_rows
    return 0 if compare(options, allocators) else 1


if __name__ == "__main__":
    sys.exit(main())
