"""Running the programs: one process a measurement, checked, in random order."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Callable

from allocators import HAKMEM, Allocator
from errors import BenchError, KilledError
from workloads import Workload

TIMEOUT_SECONDS = 300

# Sample values by metric, and samples by test and allocator.
Sample = dict[str, float]
Samples = dict[str, dict[str, list[Sample]]]
# Resident memory over time: {"period_seconds": P, "bytes": [after P, after 2 P, ...]}.
Curve = dict


@dataclass(frozen=True)
class Job:
    """One program to run under each allocator; it may hold several tests."""

    name: str
    command: list[str]
    parse: Callable[[str, dict], "Outcome"]

    def run(self, build_dir: Path, allocator: Allocator) -> "Outcome":
        return measure(build_dir, allocator, self)


@dataclass(frozen=True)
class Outcome:
    malloc: str  # file that provided malloc
    samples: dict[str, Sample]  # by test
    checksum: str | None  # of the work done; must not depend on the allocator
    curve: Curve | None = None


@dataclass
class Results:
    samples: Samples = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)  # of the first run, by test and allocator


def usage_sample(usage: dict) -> Sample:
    """Whole-process figures of the kernel, peak RSS included."""
    return {
        "time_seconds": usage["wall_seconds"],
        "cpu_seconds": usage["user_seconds"] + usage["sys_seconds"],
        "user_seconds": usage["user_seconds"],
        "sys_seconds": usage["sys_seconds"],
        # Of the largest process, or of all together as far as they were looked at.
        "peak_rss_bytes": max([usage["peak_rss_bytes"], *usage["rss_bytes"]]),
        # A program that ended before the first point has its peak only.
        "mean_rss_bytes": mean(usage["rss_bytes"] or [usage["peak_rss_bytes"]]),
        "page_faults": usage["minor_faults"] + usage["major_faults"],
        "context_switches": usage["voluntary_switches"] + usage["involuntary_switches"],
    }


def usage_curve(usage: dict) -> Curve:
    return {"period_seconds": usage["rss_period_seconds"], "bytes": usage["rss_bytes"]}


def macro_outcome(test: str, stdout: str, usage: dict) -> Outcome:
    """Outcome of a macro workload, which prints what it did as a line of JSON."""
    line = json.loads(stdout)
    sample = usage_sample(usage) | {"operations": line["operations"]}
    return Outcome(line["malloc"], {test: sample}, line["checksum"], usage_curve(usage))


def macro_jobs(build_dir: Path, workloads: list[Workload], quick: bool) -> list[Job]:
    return [
        Job(
            workload.name,
            [str(build_dir / "bench" / workload.program), *workload.arguments(quick)],
            lambda stdout, usage, name=workload.name: macro_outcome(name, stdout, usage),
        )
        for workload in workloads
    ]


def micro_outcome(stdout: str, _usage: dict) -> Outcome:
    """Outcome of google-benchmark's JSON: seconds a call, or a block where a batch has many."""
    document = json.loads(stdout)
    samples = {}
    for row in document["benchmarks"]:
        if row.get("error_occurred"):
            raise BenchError(f"{row['name']}: {row['error_message']}")
        # CPU time is the steadier one, but it sees one side only where threads work together.
        seconds = (row["real_time"] if "/real_time" in row["name"] else row["cpu_time"]) * 1e-9
        if "items_per_second" in row:
            seconds = 1 / row["items_per_second"]
        samples[row["name"].replace("/real_time", "")] = {"time_seconds": seconds}
    return Outcome(document["context"]["malloc"], samples, None)


def environment() -> dict[str, str]:
    """A small fixed environment: no variable of the caller configures an allocator."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/", "LC_ALL": "C"}


def measure(build_dir: Path, allocator: Allocator, job: Job) -> Outcome:
    """Runs the job once under the allocator; raises BenchError on anything unexpected."""
    result_read, result_write = os.pipe()
    command = [str(build_dir / "bench" / "bench_measure"), f"--result-fd={result_write}"]
    if allocator.library is not None:
        command.append(f"--preload={allocator.library}")
    command += ["--", *job.command]
    what = f"{job.name} under {allocator.name}"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | allocator.environment,
            pass_fds=(result_write,),
        )
    except OSError as error:
        os.close(result_read)
        raise BenchError(f"{command[0]}: {error.strerror}: ./run build release") from error
    finally:
        os.close(result_write)
    with os.fdopen(result_read) as results:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{what}: not finished after {TIMEOUT_SECONDS} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        usage_text = results.read()
    message = stderr.strip().splitlines()[-1] if stderr.strip() else "no message"
    if process.returncode != 0 or not usage_text:
        raise BenchError(f"{what}: could not be measured: {message}")
    usage = json.loads(usage_text)
    if usage["signal"]:
        raise KilledError(f"{what}: killed by {signal.Signals(usage['signal']).name}: {message}")
    if usage["exit_status"]:
        raise BenchError(f"{what}: exit status {usage['exit_status']}: {message}")
    try:
        outcome = job.parse(stdout, usage)
    except (ValueError, KeyError) as error:
        raise BenchError(f"{what}: its output is not what was expected: {message}") from error
    check_preload(allocator, outcome.malloc, what, message)
    return outcome


def run_again_if_killed(build_dir: Path, job: Job, allocator: Allocator, attempts: int = 3) -> Outcome | None:
    """Runs the job; where a peer crashes now and then, says so and runs it again. None when it goes on crashing.

    hakmem has no second chance.
    """
    for _ in range(attempts):
        try:
            return job.run(build_dir, allocator)
        except KilledError as error:
            if allocator.name == HAKMEM:
                raise
            print(f"bench: {error}", file=sys.stderr, flush=True)
    return None


def check_preload(allocator: Allocator, provider: str, what: str, message: str) -> None:
    """Raises BenchError unless malloc came from where it should have."""
    actual = Path(provider).resolve()
    if allocator.library is None:
        if not actual.name.startswith("libc.so"):
            raise BenchError(f"{what}: malloc comes from {provider}, not from the C library")
    elif actual != Path(allocator.library).resolve():
        raise BenchError(
            f"{what}: the preload had no effect, malloc comes from {provider} and not from "
            f"{allocator.library} ({message})"
        )


class Progress:
    """One line that is rewritten on a terminal, one line a round elsewhere."""

    def __init__(self, title: str, total: int, rounds: int):
        self._title, self._total, self._rounds, self._done, self._start = title, total, rounds, 0, time.monotonic()
        self._terminal = sys.stderr.isatty()

    def before(self, run: int, job: Job, contestant: str) -> None:
        if self._terminal:
            text = f"{self._title} {run + 1} of {self._rounds}, {job.name}, {contestant}{self._left()}"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def after(self) -> None:
        self._done += 1

    def round_finished(self, run: int) -> None:
        if not self._terminal:
            text = f"bench: {self._title} {run + 1} of {self._rounds} finished{self._left()}"
            print(text, file=sys.stderr, flush=True)

    def finished(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _left(self) -> str:
        if self._done == 0 or self._done == self._total:
            return ""
        seconds = (time.monotonic() - self._start) / self._done * (self._total - self._done)
        return f", about {seconds:.0f} s left"


def run_all(build_dir: Path, jobs: list[Job], allocators: list[Allocator], runs: int, title: str = "run") -> Results:
    """Runs every job `runs` times under every allocator.

    Run i of all comes before run i + 1 of any, in an order drawn anew for each job, so
    that what the machine does meanwhile falls on all alike, and so does what the process
    before leaves: one that ends with many small pages leaves no huge ones.
    """
    results = Results()
    checksums: dict[str, str | None] = {}
    crashed: set[tuple[str, str]] = set()  # job and allocator: left out
    progress = Progress(title, runs * len(jobs) * len(allocators), runs)
    for run in range(runs):
        for job in jobs:
            order = random.Random(f"{run} {job.name}").sample(allocators, len(allocators))
            for allocator in order:
                name = allocator.name
                progress.before(run, job, name)
                outcome = None
                if (job.name, name) not in crashed:
                    outcome = run_again_if_killed(build_dir, job, allocator)
                progress.after()
                if outcome is None:
                    crashed.add((job.name, name))
                    continue
                if checksums.setdefault(job.name, outcome.checksum) != outcome.checksum:
                    raise BenchError(f"{job.name} under {name}: did other work than under the allocators before it")
                for test, sample in outcome.samples.items():
                    results.samples.setdefault(test, {}).setdefault(name, []).append(sample)
                    if outcome.curve:
                        results.curves.setdefault(test, {}).setdefault(name, outcome.curve)
        progress.round_finished(run)
    # The runs before the crash count for nothing.
    for by_name in results.samples.values():
        for name in [name for name, samples in by_name.items() if len(samples) < runs]:
            del by_name[name]
    progress.finished()
    return results
