#!/usr/bin/env python3
"""What each mitigation costs: the release library without or with it, in instructions and on demand in time.

    bench/mitigations.py [--only NAMES] [--time RUNS | --pairs RUNS]

Builds the variants into build/mitigations-NAME. Instructions are those of bench/instructions, for each pair or call;
`workloads` is all that the quick workloads execute, a twentieth of their length, against the release build, by
geometric mean. With --time: CPU time and peak RSS of the quick workloads against the release build, run RUNS times in
rotated order, medians, by geometric mean.

With --pairs, for differences of some percent: in each round each workload runs under the release build, under a copy
of it and under each variant (`none`, if --only names no other), in random order. All workloads take part, each for some
tenths of a second only, since most of what differs from run to run is where the kernel puts things. Shown is the
geometric mean over the workloads of a variant's median CPU time against that of the release build and its copy together,
of the copy against the release build, with an interval that holds it with 95 %, by drawing the rounds again and again.
What the copy comes out as is what the figures are worth. With --json the file keeps what each run took, and rounds that
it has already count as well: so they can be run a few at a time.

`./run build release` builds the programs.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "instructions"))

import profilers  # noqa: E402
from allocators import Allocator, preloaded  # noqa: E402
from callgrind import CallgrindError, measure  # noqa: E402
from document import DEFAULT_BUILD_DIR  # noqa: E402
from errors import BenchError  # noqa: E402
from refill_tables import job_of  # noqa: E402
from report import table  # noqa: E402
from runner import Job, macro_jobs, run_all  # noqa: E402
from significance import geometric_mean, median  # noqa: E402
from variants import build_variant  # noqa: E402
from workloads import Workload, selected_workloads  # noqa: E402

RELEASE = "release"
# The variants by name, as what they add to the release build's mitigations or take from them.
LESS = {
    "no free keys": ("kFreeKeys",),
    "no encoded links": ("kEncodedLinks",),
    "no checked lists": ("kCheckedLists",),
    "no metadata guards": ("kMetadataGuards",),
    "no random addresses": ("kRandomAddresses",),
    "none": ("kFreeKeys", "kEncodedLinks", "kCheckedLists", "kMetadataGuards", "kRandomAddresses"),
}
MORE = {
    "block states": ("kBlockStates",),
    "block states, zero on free": ("kBlockStates", "kZeroOnFree"),
    "block states, delayed reuse": ("kBlockStates", "kDelayedReuse"),
    "random reuse": ("kRandomReuse",),
    "guard pages": ("kGuardPages",),
    "hardened": ("kBlockStates", "kZeroOnFree", "kDelayedReuse", "kRandomReuse", "kGuardPages"),
}
NAMES = (*LESS, *MORE)
ROWS = ("pair16", "remote", "2k", "20k", "calloc64", "mixed")
SHORTER = 60  # than the full workloads: a twentieth of the quick ones
PAIRED_SHORTER = 12
RESAMPLINGS = 1000
COPY = "release again"


def build(name: str) -> Allocator:
    sign, flags = ("-", LESS[name]) if name in LESS else ("+", MORE[name])
    expression = "kDefaultMitigations" + "".join(f"{sign}Mitigation::{flag}" for flag in flags)
    folder = "mitigations-" + re.sub(r"\W+", "-", name)
    return build_variant(folder, name, f"-DHAKMEM_MITIGATIONS={expression}", f"mitigations: {name}")


def executed(job: Job, allocator: Allocator) -> int:
    """All instructions of the program."""
    tool = [*profilers.VALGRIND, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    return int(re.search(r"I +refs: +([\d,]+)", profilers.run_preloaded(tool, job, allocator))[1].replace(",", ""))


def count(build_dir: Path, allocators: list[Allocator], workloads: list[Workload]) -> dict[str, list[float]]:
    """By variant: the figure of each row, and the workloads' against the release build's."""
    program = str(build_dir / "bench" / "bench_instructions")
    jobs = [job_of(build_dir, workload, SHORTER) for workload in workloads]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = {a.name: [pool.submit(measure, program, row, a.library) for row in ROWS] for a in allocators}
        totals = {a.name: [pool.submit(executed, job, a) for job in jobs] for a in allocators}
        base = [total.result() for total in totals[RELEASE]]
        return {
            name: [cost.result().instructions for cost in rows[name]]
            + [geometric_mean([total.result() / least for total, least in zip(totals[name], base)])]
            for name in rows
        }


def timed(build_dir: Path, allocators: list[Allocator], workloads: list[Workload], runs: int) -> dict[str, list[float]]:
    """By variant: CPU time and peak RSS against the release build's."""
    samples = run_all(build_dir, macro_jobs(build_dir, workloads, True), allocators, runs).samples

    def ratio(by_name: dict, name: str, key: str) -> float:
        values = (median([sample[key] for sample in by_name[side]]) for side in (name, RELEASE))
        return next(values) / next(values)

    keys = ("cpu_seconds", "peak_rss_bytes")
    return {
        allocator.name: [geometric_mean([ratio(by, allocator.name, key) for by in samples.values()]) for key in keys]
        for allocator in allocators
    }


def copy_of_release(build_dir: Path) -> Allocator:
    path = build_dir.parent / "mitigations-release-again" / "libhakmem.so"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(build_dir / path.name, path)
    return preloaded(COPY, path, "the same once more", peer=False)


# CPU seconds of each round, by variant and workload.
Seconds = dict[str, dict[str, list[float]]]


def seconds_of_pairs(build_dir: Path, allocators: list[Allocator], runs: int) -> Seconds:
    jobs = [job_of(build_dir, workload, PAIRED_SHORTER) for workload in selected_workloads(None, quick=False)]
    samples = run_all(build_dir, jobs, allocators, runs).samples
    return {
        allocator.name: {
            job: [sample["cpu_seconds"] for sample in by_name[allocator.name]] for job, by_name in samples.items()
        }
        for allocator in allocators
    }


def earlier_rounds(kept: Path, allocators: list[Allocator]) -> Seconds:
    """What a file has of earlier rounds, which have to be of the same variants."""
    if not kept.exists():
        return {}
    earlier = json.loads(kept.read_text(encoding="utf-8"))
    names = {allocator.name for allocator in allocators}
    if set(earlier) != names:
        raise BenchError(f"{kept} has rounds of {', '.join(earlier)}, not of {', '.join(sorted(names))}")
    return earlier


def with_earlier(seconds: Seconds, earlier: Seconds, kept: Path) -> Seconds:
    seconds = {
        name: {job: earlier.get(name, {}).get(job, []) + values for job, values in by_job.items()}
        for name, by_job in seconds.items()
    }
    kept.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")
    return seconds


def paired(seconds: Seconds) -> dict[str, list[float]]:
    """By variant: CPU time against release, and the ends of its interval."""

    def ratio(name: str, rounds: list[int]) -> float:
        base = [RELEASE] if name == COPY else [RELEASE, COPY]

        def median_of(names: list[str], job: str) -> float:
            return median(seconds[each][job][turn] for turn in rounds for each in names)

        return geometric_mean([median_of([name], job) / median_of(base, job) for job in seconds[name]])

    rounds = range(len(next(iter(seconds[RELEASE].values()))))
    draw = random.Random(1)
    figures = {}
    for name in [name for name in seconds if name != RELEASE]:
        drawn = sorted(ratio(name, draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLINGS))
        figures[name] = [ratio(name, list(rounds)), drawn[RESAMPLINGS // 40], drawn[-RESAMPLINGS // 40], len(rounds)]
    return figures


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAMES", help=f"only these variants, by semicolons: {'; '.join(NAMES)}")
    parser.add_argument("--time", metavar="RUNS", type=int, help="measure time, in place of instructions")
    parser.add_argument("--pairs", metavar="RUNS", type=int, help="measure time in so many rounds of short runs")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures")
    parser.add_argument("--build-dir", type=Path, default=DEFAULT_BUILD_DIR, help="where the programs are built")
    options = parser.parse_args()
    options.names = options.only.split(";") if options.only else ("none",) if options.pairs else NAMES
    for name in options.names:
        if name not in NAMES:
            parser.error(f"--only: there is no {name!r}")
    return options


def main() -> int:
    options = parse_arguments()
    build_dir = options.build_dir.resolve()
    workloads = selected_workloads(None, quick=True)
    try:
        allocators = [preloaded(RELEASE, build_dir / "libhakmem.so", "the build as it is", peer=False)]
        allocators += [build(name) for name in options.names]
        if options.pairs:
            header = ["CPU time", "from", "to", "rounds"]
            contestants = [allocators[0], copy_of_release(build_dir), *allocators[1:]]
            earlier = earlier_rounds(options.json, contestants) if options.json else {}
            seconds = seconds_of_pairs(build_dir, contestants, options.pairs)
            figures = paired(with_earlier(seconds, earlier, options.json) if options.json else seconds)
        elif options.time:
            header, figures = ["CPU time", "peak RSS"], timed(build_dir, allocators, workloads, options.time)
        else:
            header, figures = [*ROWS, "workloads"], count(build_dir, allocators, workloads)
    except (BenchError, CallgrindError, OSError) as error:
        print(f"mitigations: {error}", file=sys.stderr)
        return 2
    if options.json and not options.pairs:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    forms = dict.fromkeys(("workloads", "CPU time", "peak RSS", "from", "to"), ".3f") | {"rounds": "d"}
    cells = {
        name: [f"{value:{forms.get(title, '.1f')}}" for title, value in zip(header, values)]
        for name, values in figures.items()
    }
    print(table(["variant", *header], [[name, *values] for name, values in cells.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
