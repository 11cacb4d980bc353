"""`./run bench refill`: what a larger or smaller refill batch costs, and what new slabs cost.

Two questions of the design, asked again of every state of the allocator: the
batch of a refill against throughput and L1d misses of each workload, and the
share of CPU time that goes into new slabs, step by step.
"""

import argparse
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import profilers
from allocators import Allocator, preloaded
from document import DEFAULT_BUILD_DIR, check_writable, measure_document
from errors import BenchError
from profilers import L1D, SAMPLES_PER_SECOND, STEPS
from report import TIME, noise_in, table, values_of
from runner import Job, Progress, macro_outcome
from significance import geometric_mean, judge, median
from variants import build_variant
from workloads import Workload, selected_workloads

BATCHES = (16, 32, 64, 128)
ADAPTIVE = "adaptive"  # the build as it is: bounded by count and by bytes
RUNS = 5
NO_BOUND_IN_BYTES = 1 << 30
# Full arguments through these: about half a second alone, and some seconds under valgrind.
SHORTER, MUCH_SHORTER = 3, 30


def job_of(build_dir: Path, workload: Workload, divisor: int) -> Job:
    """The workload with its full arguments, but a shorter run."""
    length = [re.sub(r"\d+$", lambda number: str(max(1, int(number[0]) // divisor)), text) for text in workload.full]
    command = [str(build_dir / "bench" / workload.program), *workload.heap, *length]
    return Job(workload.name, command, lambda stdout, usage: macro_outcome(workload.name, stdout, usage))


def build_batch(objects: int) -> Allocator:
    """The release library with a fixed refill batch."""
    bounds = f"-DHAKMEM_REFILL_OBJECTS={objects} -DHAKMEM_REFILL_BYTES={NO_BOUND_IN_BYTES} -DHAKMEM_REFILL_DOUBLINGS=0"
    return build_variant(f"refill-{objects}", str(objects), bounds, f"{objects} objects a refill, any bytes")


# -- tables ------------------------------------------------------------------------------------------------------------


def significant(value: float) -> str:
    """Three significant digits."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def batch_table(title: str, values: dict[str, dict[str, float]], marks: dict[str, dict[str, str]]) -> str:
    """A row a test, a column a batch: the value and its ratio to adaptive."""
    names = list(next(iter(values.values())))
    rows = [
        [test, *(f"{significant(v)} ({v / by[ADAPTIVE]:.2f}){marks.get(test, {}).get(n, '')}" for n, v in by.items())]
        for test, by in values.items()
    ]
    means = [geometric_mean([by[name] / by[ADAPTIVE] for by in values.values()]) for name in names]
    rows.append(["geometric mean", *(f"({mean:.3f})" for mean in means)])
    return f"### {title}\n\n" + table(["test", *names], rows)


def throughput_table(document: dict) -> str:
    values, marks = {}, {}
    for test, by_name in document["samples"].items():
        operations = by_name[ADAPTIVE][0]["operations"]
        times = {name: values_of(document, test, name, TIME) for name in by_name}
        values[test] = {name: operations / median(times[name]) * 1e-6 for name in document["allocators"]}
        noise = noise_in(document, TIME).tests[test]
        verdicts = {name: judge(times[ADAPTIVE], times[name], noise)[1] for name in times}
        marks[test] = {name: "*" for name, verdict in verdicts.items() if verdict in ("better", "worse")}
    return batch_table("Throughput, M operations/s (against adaptive)", values, marks) + (
        "\n\n`*`: significant (p < 0.01) and above the noise."
    )


def tables(document: dict) -> str:
    parts = [throughput_table(document)]
    percent = {test: {n: 100 * v for n, v in by.items()} for test, by in document["l1d_misses"].items()}
    title = f"L1d misses, % of data references, cachegrind with {L1D} (against adaptive)"
    parts.append(batch_table(title, percent, {}))
    if hardware := document["counters"]:
        for key, title in (
            ("instructions_per_cycle", "Instructions a cycle"),
            ("l1d_misses_per_load", "L1d misses a load"),
        ):
            values = {test: {name: counts[key] for name, counts in by.items()} for test, by in hardware.items()}
            parts.append(batch_table(f"{title}, hardware counters (against adaptive)", values, {}))
    else:
        parts.append("This machine has no hardware counters that perf may read: no instructions a cycle.")
    rows = [
        [test, *(f"{100 * shares[step]:.2f}" for step in STEPS), f"{100 * sum(shares.values()):.2f}"]
        for test, shares in document["superslab_refill"].items()
    ]
    parts.append(f"### New slabs: {document['share_of']}\n\n" + table(["test", *STEPS, "all"], rows))
    return "\n\n".join(parts) + "\n"


# -- command -----------------------------------------------------------------------------------------------------------


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run bench refill",
        description="Refill batches of 16, 32, 64 and 128 objects and the adaptive one against throughput and L1d "
        "misses, and the share of CPU time that new slabs take, by step. About ten minutes.",
    )
    parser.add_argument("--only", metavar="NAMES", help="only these workloads, separated by commas")
    parser.add_argument("--json", metavar="FILE", help="write the results, which `compare` also reads")
    parser.add_argument("--build-dir", type=Path, default=DEFAULT_BUILD_DIR, help="where the programs are built")
    return parser.parse_args(arguments)


def each(title: str, jobs: list[Job], libraries: list[Allocator], parallel: int, measure: Callable) -> dict:
    """measure(job, library) of all by test and library, `parallel` at a time, with progress."""
    progress = Progress(title, len(jobs) * len(libraries), len(jobs))
    results = {}
    with ThreadPoolExecutor(parallel) as pool:
        for i, job in enumerate(jobs):
            progress.before(i, job, "all batches" if len(libraries) > 1 else libraries[0].name)
            results[job.name] = {}
            for library, result in zip(libraries, pool.map(lambda library, job=job: measure(job, library), libraries)):
                results[job.name][library.name] = result
                progress.after()
            progress.round_finished(i)
    progress.finished()
    return results


def refill(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    build_dir = options.build_dir.resolve()
    check_writable(options.json)
    workloads = selected_workloads(options.only, quick=False)
    path = build_dir / "libhakmem.so"
    if not path.exists():
        raise BenchError(f"{path} is missing: ./run build release")
    adaptive = preloaded(ADAPTIVE, path, "the build as it is", peer=False)
    libraries = [adaptive, *(build_batch(objects) for objects in BATCHES)]
    jobs = [job_of(build_dir, workload, SHORTER) for workload in workloads]
    short_jobs = [job_of(build_dir, workload, MUCH_SHORTER) for workload in workloads]

    document = measure_document(build_dir, "refill", "short", jobs, libraries, RUNS)
    document["tests"] = {job.name: job.command[1:] for job in jobs}
    processors = document["machine"]["processors"]
    document["l1d_misses"] = each("cachegrind", short_jobs, libraries, processors, profilers.simulated_misses)
    has_counters = profilers.counted(jobs[0], adaptive) is not None
    document["counters"] = each("perf stat", jobs, libraries, 1, profilers.counted) if has_counters else None
    if profilers.can_sample():
        document["share_of"] = f"% of CPU time, kernel included, perf at {SAMPLES_PER_SECOND} samples/s"
        shares = each("perf record", jobs, [adaptive], 1, profilers.sampled_shares)
    else:
        document["share_of"] = "% of instructions, without the kernel (perf is missing or may not see it), callgrind"
        shares = each("callgrind", short_jobs, [adaptive], 1, profilers.counted_shares)
    document["superslab_refill"] = {test: by_name[ADAPTIVE] for test, by_name in shares.items()}
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(tables(document), end="")
    return 0
