"""A run of jobs as a result document: noise first, then all allocators in turn."""

import os
import platform
import time
from datetime import datetime, timezone
from pathlib import Path

from allocators import HAKMEM, Allocator
from errors import BenchError
from report import opening
from runner import Job, run_all

FORMAT = 2
NOISE_RUNS = 6  # of the reference allocator, before everything else: ten ways to make two sides of them

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_BUILD_DIR = Path(os.environ.get("BENCH_BUILD_DIR", ROOT / "build" / "release"))


def _first_match(path: str, key: str, default: str) -> str:
    try:
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return default


def describe_machine() -> dict:
    try:
        huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
        huge_pages = huge_pages.partition("[")[2].partition("]")[0]
    except OSError:
        huge_pages = "unknown"
    return {
        "processor": _first_match("/proc/cpuinfo", "model name", platform.machine()),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "transparent_hugepage": huge_pages,
        "load_before": os.getloadavg()[0],
    }


def reference_of(allocators: list[Allocator]) -> Allocator:
    """The allocator whose noise is measured: hakmem, else the first peer, else what there is."""
    return next(
        (allocator for allocator in allocators if allocator.name == HAKMEM),
        next((allocator for allocator in allocators if allocator.peer), allocators[0]),
    )


def check_writable(path: str | None) -> None:
    """Before the long work: a --json FILE that cannot be written must not cost it."""
    try:
        if path:
            Path(path).touch()
    except OSError as error:
        raise BenchError(f"--json {path}: {error.strerror}") from error


def measure_document(
    build_dir: Path, kind: str, length: str, jobs: list[Job], allocators: list[Allocator], runs: int
) -> dict:
    """Runs everything; prints machine, contestants and noise as soon as they are known."""
    reference = reference_of(allocators)
    document = {
        "format": FORMAT,
        "kind": kind,
        "arguments": length,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "runs": runs,
        "machine": describe_machine(),
        "allocators": {allocator.name: allocator.as_json() for allocator in allocators},
        "reference": reference.name,
    }
    start = time.monotonic()
    noise = run_all(build_dir, jobs, [reference], NOISE_RUNS, "noise").samples
    document["noise_samples"] = {test: by_name[reference.name] for test, by_name in noise.items()}
    print(opening(document), end="", flush=True)
    results = run_all(build_dir, jobs, allocators, runs)
    document["samples"], document["rss_over_time"] = results.samples, results.curves
    document["duration_seconds"] = time.monotonic() - start
    document["machine"]["load_after"] = os.getloadavg()[0]
    return document
