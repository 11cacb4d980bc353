"""The macro workloads: fixed, checked work, and one clear line if they are started wrongly."""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

from allocators import find_allocators
from run_bench import DEFAULT_BUILD_DIR, macro_jobs
from runner import Job, measure
from workloads import WORKLOADS, drawn_workloads

BUILD = DEFAULT_BUILD_DIR.resolve()
# The library of this build, where there is one: it has to do the same work.
HAKMEM_LIBRARY = os.environ.get("BENCH_LIBRARY")

# Arguments for short runs, where later options win, and the checksums of these:
# a workload whose checksum changes does other work, and older results are void.
SHORT = {
    "larson": ("00010a67cda41120", "--rounds=3", "--arrays=4"),
    "random": ("00008bb37c74b2a9", "--operations=100000"),
    "bursty": ("701f01832d0ef221", "--bursts=6", "--blocks=10000"),
    "mixed": ("000186dd8d507000", "--operations=100000"),
    "varsize": ("00003ad317ec57e1", "--operations=30000"),
    "crossthread": ("00011f93d7c570cf", "--messages=50000", "--window=3000"),
    "larson-sized": ("00010a67cda41120", "--rounds=3", "--arrays=4"),
    "churn": ("000039d58e57b7ac", "--threads=60", "--parcels=30"),
    "large": ("0000001b59c48d49", "--operations=60"),
    "buffers": ("000000aeb7967793", "--operations=10000", "--buffers=60"),
    "phases": ("00011ab43ffce0ec", "--peak-mib=8", "--rest-ms=2"),
    "batches": ("00003a7ea37683bb", "--batches=300"),
    "exchange": ("00009c8daa6d2169", "--phases=4", "--operations=5000", "--own=500", "--shared=200"),
    "tiny": ("00009c8751a799b7", "--rounds=10"),
    "service": ("000025be5d82d83b", "--requests=20"),
}
# Some of the drawn ones: each kind of lifetime, call and touch is among them.
DRAWN = {
    "drawn-3": ("0000025b9248d403", "--operations=600"),
    "drawn-5": ("000004bec3d769a4", "--operations=600"),
    "drawn-8": ("0000012e09df17bc", "--operations=600"),
    "drawn-10": ("0000012e0212a86e", "--operations=600"),
    "drawn-12": ("0000025a629fddbd", "--operations=600"),
    "drawn-13": ("00000245097ab658", "--operations=600"),
}
SHORT |= DRAWN
TESTED = [*WORKLOADS, *(workload for workload in drawn_workloads(13) if workload.name in DRAWN)]


def allocators() -> dict:
    added = [f"this-build={HAKMEM_LIBRARY}"] if HAKMEM_LIBRARY else []
    found = find_allocators(BUILD, added, ["hakmem", "mimalloc", "tcmalloc"])
    return {allocator.name: allocator for allocator in found}


def short_jobs() -> list[Job]:
    jobs = macro_jobs(BUILD, TESTED, quick=False)
    return [Job(job.name, [*job.command, *SHORT[job.name][1:]], job.parse) for job in jobs]


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


class WorkTest(unittest.TestCase):
    def test_every_workload_has_a_short_form(self):
        self.assertEqual(SHORT.keys(), {workload.name for workload in TESTED})

    def test_the_work_is_fixed_under_every_allocator(self):
        for job in short_jobs():
            for name, allocator in allocators().items():
                with self.subTest(workload=job.name, allocator=name):
                    self.assertEqual(measure(BUILD, allocator, job).checksum, SHORT[job.name][0])

    def test_another_seed_is_other_work(self):
        glibc = allocators()["glibc"]
        # The drawn ones are other seeds already.
        for job in short_jobs()[: len(WORKLOADS)]:
            other = Job(job.name, [*job.command, "--seed=2"], job.parse)
            with self.subTest(workload=job.name):
                self.assertNotEqual(measure(BUILD, glibc, other).checksum, SHORT[job.name][0])

    def test_phases_tells_what_stays_resident(self):
        line = json.loads(run(BUILD / "bench" / "bench_phases", "--peak-mib=8", "--rest-ms=2").stdout)
        # At least the 15 % that are kept; at most all that was ever there, and the program.
        self.assertGreater(line["resting_rss_bytes"], 8 * 2**20 * 0.15)
        self.assertLess(line["resting_rss_bytes"], 32 * 2**20)


class ArgumentTest(unittest.TestCase):
    def assert_refused(self, program: str, option: str, message: str) -> None:
        with self.subTest(program=program, option=option):
            result = run(BUILD / "bench" / program, option)
            self.assertEqual(result.returncode, 2)
            self.assertEqual(result.stdout, "")
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
            self.assertIn(message, result.stderr)

    def test_every_program_knows_its_options(self):
        for program in {workload.program for workload in TESTED}:
            self.assert_refused(program, "--unheard-of=5", "--unheard-of: unknown option")
            self.assert_refused(program, "--seed=0", "--seed=0: not a positive number")

    def test_wrong_options_end_a_workload(self):
        for program, option, message in (
            ("bench_random", "--slots=many", "not a positive number"),
            ("bench_random", "slots=5", "form --name=value"),
            ("bench_random", "--smallest=4", "sizes must be"),
            ("bench_random", "--large=8", "sizes must be"),
            ("bench_larson", "--largest=5000000000", "sizes must be"),
            ("bench_larson", "--free=late", "--free=late: neither plain nor sized"),
            ("bench_crossthread", "--pattern=ring", "--pattern=ring: not a pattern"),
            ("bench_churn", "--parcels=3", "fewer parcels than threads alive"),
            ("bench_phases", "--kept-percent=100", "--kept-percent must be below 100"),
            ("bench_batches", "--batches=1", "fewer batches than pairs of threads"),
        ):
            self.assert_refused(program, option, message)


class SelectionTest(unittest.TestCase):
    def bench(self, *arguments: str) -> subprocess.CompletedProcess:
        return run(sys.executable, BENCH / "run_bench.py", "--build-dir", BUILD, "--without", "hakmem", *arguments)

    def test_quick_runs_leave_out_what_is_for_full_runs(self):
        full, quick = self.bench("--list"), self.bench("--list", "--quick")
        self.assertEqual((full.returncode, quick.returncode), (0, 0), full.stderr + quick.stderr)
        self.assertIn("bench_tiny --rounds=", full.stdout)
        self.assertIn("in three orders (full runs only)\n", full.stdout)
        self.assertNotIn("bench_tiny", quick.stdout)
        programs = [line.split()[0] for line in quick.stdout.splitlines() if "bench_" in line]
        self.assertEqual(
            programs, [f"bench_{name}" for name in ("larson", "random", "bursty", "mixed", "varsize", "crossthread")]
        )
        refused = self.bench("--quick", "--only", "tiny")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--only tiny: no such test in quick runs; there are bursty, crossthread", refused.stderr)

    def test_drawn_workloads_take_the_place_of_the_others(self):
        drawn = self.bench("--list", "--drawn", "2")
        programs = [line.strip() for line in drawn.stdout.splitlines() if "bench_" in line]
        self.assertEqual(programs, ["bench_drawn --seed=1", "bench_drawn --seed=2"], drawn.stderr)
        for arguments, message in (
            (("--drawn", "0"), "--drawn must be at least 1"),
            (("--drawn", "2", "--only", "larson"), "--only larson: no such test; there are drawn-1, drawn-2"),
        ):
            refused = self.bench(*arguments)
            self.assertEqual(refused.returncode, 2)
            self.assertIn(message, refused.stderr)


if __name__ == "__main__":
    unittest.main()
