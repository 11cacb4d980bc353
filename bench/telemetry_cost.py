"""What telemetry costs: the telemetry build, scraped every second, against the release build in pairs.

    ./run bench telemetry [--quick] [--runs 7] [--only NAMES]

Each run of a workload under one build is followed by one under the other, in
turns. The ratio of each pair is taken, and of the ratios the median and an
interval. Runs are four times as long as the bench's: a process has no endpoint in its first second. The
start of one costs once and is measured by itself, in a row of its own; the last
column is without it.
"""

import argparse
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from allocators import DEBIAN_PEERS, GLIBC, HAKMEM, Allocator, find_allocators, preloaded
from document import DEFAULT_BUILD_DIR, ROOT
from endpoint import free_port, scrape
from errors import BenchError
from runner import Job, Samples, macro_jobs, macro_outcome, run_all
from significance import geometric_mean, median, median_interval
from workloads import Workload, selected_workloads

START = "start"
TELEMETRY = "telemetry"
# Resident memory that a process with an endpoint may have more, whatever it does.
RSS_ALLOWANCE = 1 << 20
LENGTH = 4  # of a run, in full runs of the bench


class Scraper:
    """Scrapes whatever process listens on the port: when it has come up, and every second from then on."""

    def __init__(self, port: int):
        self.scrapes = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            try:
                scrape(self._port, timeout=5)
                self.scrapes += 1
                pause = 1.0
            except OSError:  # between two processes
                pause = 0.05


def telemetry_build(library: Path, port: int) -> Allocator:
    if not library.exists():
        raise BenchError(f"{library} is missing: ./run build telemetry")
    return preloaded(TELEMETRY, library, "telemetry", peer=False, environment={"HAKMEM_LISTEN": f"127.0.0.1:{port}"})


def start_job(build_dir: Path) -> Job:
    command = [str(build_dir / "bench" / "bench_random"), "--slots=1", "--operations=1"]
    return Job(START, command, lambda stdout, usage: macro_outcome(START, stdout, usage))


def lengthened(workload: Workload, times: int) -> Workload:
    def more(argument: str) -> str:
        name, _, number = argument.partition("=")
        return f"{name}={int(number) * times}"

    return replace(workload, full=tuple(more(argument) for argument in workload.full))


@dataclass(frozen=True)
class Row:
    """One workload: telemetry's figures over release's."""

    name: str
    time: float
    cpu: float
    cpu_low: float
    cpu_high: float
    cpu_after_start: float
    rss: float  # without the allowance


def rows_of(samples: Samples) -> list[Row]:
    def figures(test: str, build: str, metric: str) -> list[float]:
        return [sample[metric] for sample in samples[test][build]]

    def ratios(test: str, metric: str, less: dict[str, float] | None = None) -> list[float]:
        less = less or {HAKMEM: 0, TELEMETRY: 0}
        pairs = zip(figures(test, HAKMEM, metric), figures(test, TELEMETRY, metric))
        return [(with_it - less[TELEMETRY]) / (without - less[HAKMEM]) for without, with_it in pairs]

    start = {build: median(figures(START, build, "cpu_seconds")) for build in (HAKMEM, TELEMETRY)}
    rows = []
    for test in samples:
        if test == START:
            continue
        cpu = ratios(test, "cpu_seconds")
        interval = median_interval(cpu)
        rows.append(
            Row(
                name=test,
                time=median(ratios(test, "time_seconds")),
                cpu=median(cpu),
                cpu_low=interval.low,
                cpu_high=interval.high,
                cpu_after_start=median(ratios(test, "cpu_seconds", start)),
                rss=median(ratios(test, "peak_rss_bytes", {HAKMEM: 0, TELEMETRY: RSS_ALLOWANCE})),
            )
        )
    return rows


def table_of(samples: Samples) -> str:
    rows = rows_of(samples)
    columns = ("time", "cpu", "cpu_after_start", "rss")
    mean = {column: f"{geometric_mean([getattr(row, column) for row in rows]):.3f}" for column in columns}
    start = {
        build: 1e3 * median(sample["cpu_seconds"] for sample in samples[START][build]) for build in (HAKMEM, TELEMETRY)
    }
    lines = [
        "| test | time | CPU time | interval | after the start | peak RSS less 1 MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.name} | {row.time:.3f} | {row.cpu:.3f} | {row.cpu_low:.3f} to {row.cpu_high:.3f} "
        f"| {row.cpu_after_start:.3f} | {row.rss:.3f} |"
        for row in rows
    ]
    lines += [
        f"| geometric mean | {mean['time']} | {mean['cpu']} | | {mean['cpu_after_start']} | {mean['rss']} |",
        "",
        f"Start of a process: {start[HAKMEM]:.1f} ms of CPU time, with an endpoint {start[TELEMETRY]:.1f} ms.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./run bench telemetry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs of the same heaps")
    parser.add_argument("--runs", type=int, default=7, help="pairs of each (default 7)")
    parser.add_argument("--only", metavar="NAMES", help="only these workloads, separated by commas")
    parser.add_argument("--build-dir", type=Path, default=DEFAULT_BUILD_DIR, help="where the programs are built")
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "telemetry" / "libhakmem-telemetry.so")
    options = parser.parse_args(arguments)
    port = free_port()
    build_dir = options.build_dir.resolve()
    peers = [GLIBC, *(name for name, *_ in DEBIAN_PEERS)]
    contestants = [*find_allocators(build_dir, [], peers), telemetry_build(options.library, port)]
    workloads = [lengthened(workload, LENGTH) for workload in selected_workloads(options.only, options.quick)]
    jobs = [start_job(build_dir), *macro_jobs(build_dir, workloads, options.quick)]
    with Scraper(port) as scraper:
        results = run_all(build_dir, jobs, contestants, options.runs)
    if scraper.scrapes == 0:
        raise BenchError("no scrape was answered: is the endpoint's module beside the library?")
    print(table_of(results.samples) + f"{scraper.scrapes} scrapes.")
    return 0
