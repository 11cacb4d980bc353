"""`bench refill` by real, tiny runs: other batches, misses, shares of new slabs, the tables."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

import profilers
import refill_tables
from allocators import preloaded
from document import DEFAULT_BUILD_DIR, ROOT
from errors import BenchError
from refill_tables import ADAPTIVE, MUCH_SHORTER, build_batch, job_of
from runner import Job
from workloads import WORKLOADS

BUILD = DEFAULT_BUILD_DIR.resolve()
LIBRARY = os.environ.get("BENCH_LIBRARY")
# How many never used blocks one refill takes: the most that are marked behind a block that malloc returns.
COUNT_CARVED = """
import ctypes
malloc = ctypes.CDLL(None).malloc
malloc.argtypes, malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
def carved(block):
    end = (block | 0xFFFF) + 1
    count = 1
    while block + 64 * count < end and any(ctypes.string_at(block + 64 * count, 16)):
        count += 1
    return count
print(max([carved(malloc(64)) for _ in range(5000)][3000:]))
"""


def tiny(name: str, *arguments: str) -> Job:
    job = job_of(BUILD, next(workload for workload in WORKLOADS if workload.name == name), MUCH_SHORTER)
    return Job(job.name, [*job.command, *arguments], job.parse)


class JobTest(unittest.TestCase):
    def test_shorter_runs_have_the_same_heap(self):
        larson = next(workload for workload in WORKLOADS if workload.name == "larson")
        self.assertEqual(job_of(BUILD, larson, 3).command[1:], [*larson.heap, "--rounds=300"])
        self.assertEqual(job_of(BUILD, larson, 10**9).command[-1], "--rounds=1")


class ArgumentsTest(unittest.TestCase):
    def test_bad_arguments_end_it_before_the_long_work(self):
        for arguments, message in (
            (["--json", "/nonexistent/x.json"], "--json /nonexistent/x.json: No such file"),
            (["--only", "nothing"], "--only nothing: no such test"),
            (["--build-dir", "/nonexistent"], "/nonexistent/libhakmem.so is missing"),
        ):
            with self.assertRaisesRegex(BenchError, message):
                refill_tables.refill(arguments)


class CountersTest(unittest.TestCase):
    """Where hardware has counters; this text is what perf 6.1 writes there."""

    COUNTED = "3000,,instructions:u,1,100.00,,\n1500,,cycles:u,1,100.00,,\n" + (
        "800,,L1-dcache-loads:u,1,100.00,,\n40,,L1-dcache-load-misses:u,1,100.00,,\n"
    )

    def test_counters_are_read(self):
        expected = {"instructions_per_cycle": 2.0, "l1d_misses_per_load": 0.05}
        self.assertEqual(profilers.read_counters(self.COUNTED), expected)

    def test_none_where_one_is_missing(self):
        self.assertIsNone(profilers.read_counters(self.COUNTED.replace("800", "<not supported>")))
        self.assertIsNone(profilers.read_counters(""))


@unittest.skipUnless(LIBRARY, "this build has no hakmem")
class ProfilersTest(unittest.TestCase):
    def setUp(self):
        self.library = preloaded(ADAPTIVE, Path(LIBRARY), "", peer=False)
        self.burst = tiny("bursty", "--bursts=6", "--blocks=20000")

    def test_every_function_of_a_step_is_in_the_source(self):
        source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "allocator").rglob("*.[hc]*"))
        for function, step in profilers.STEP_OF.items():
            self.assertRegex(source, rf"[\w*&] {function}\([^;]*\{{", function)
            self.assertIn(step, profilers.STEPS)

    def test_misses_depend_on_the_cache(self):
        misses = profilers.simulated_misses(self.burst, self.library)
        with mock.patch.object(profilers, "L1D", "4096,8,64"):
            self.assertGreater(profilers.simulated_misses(self.burst, self.library), 1.1 * misses)
        self.assertGreater(misses, 0.001)
        self.assertLess(misses, 0.2)

    def check_shares(self, shares: dict[str, float]) -> None:
        self.assertEqual(tuple(shares), profilers.STEPS)
        self.assertGreater(shares["carve"], 0.001)
        self.assertLess(sum(shares.values()), 0.9)

    def test_shares_by_callgrind(self):
        shares = profilers.counted_shares(self.burst, self.library)
        self.check_shares(shares)
        for step in ("scan", "map", "metadata"):
            self.assertGreater(shares[step], 0, step)
        self.assertEqual(shares["first touch"], 0)

    @unittest.skipUnless(profilers.can_sample(), "perf is missing or may not see the kernel")
    def test_shares_by_perf(self):
        shares = profilers.sampled_shares(tiny("bursty", "--bursts=12"), self.library)
        self.check_shares(shares)
        self.assertGreater(shares["first touch"], 0.01)


@unittest.skipUnless(LIBRARY, "this build has no hakmem")
class RefillTest(unittest.TestCase):
    def test_another_batch_and_the_tables_of_it(self):
        other = build_batch(16)
        command = ["/usr/bin/python3", "-c", COUNT_CARVED]
        carved = [
            int(subprocess.check_output(command, env={"LD_PRELOAD": library}, text=True))
            for library in (other.library, LIBRARY)
        ]
        self.assertGreaterEqual(carved[0], 16)
        self.assertLess(carved[0], carved[1])

        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as stdout:
            path = Path(folder) / "refill.json"
            arguments = ["--only", "tiny", "--json", str(path), "--build-dir", str(BUILD)]
            with (
                mock.patch.multiple(refill_tables, BATCHES=(16,), RUNS=1, SHORTER=MUCH_SHORTER),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                self.assertEqual(refill_tables.refill(arguments), 0)
            document = json.loads(path.read_text(encoding="utf-8"))
            command = [sys.executable, BENCH / "run_bench.py", "compare", path, path, "--allocator", ADAPTIVE]
            compared = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(compared.returncode, 0, compared.stderr)
        self.assertEqual(document["l1d_misses"]["tiny"].keys(), {ADAPTIVE, "16"})
        figures = r"\| tiny +\| +[0-9.]+ \(1\.00\) \| +[0-9.]+ \([0-9.]+\)\*? \|"
        self.assertEqual(len(re.findall(figures, stdout.getvalue())), 2 + 2 * bool(document["counters"]))
        self.assertIn("### New slabs: %", stdout.getvalue())


if __name__ == "__main__":
    unittest.main()
