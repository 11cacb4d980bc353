"""A small run from end to end, and what the runner must notice."""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

from allocators import find_allocators
from errors import BenchError
from run_bench import DEFAULT_BUILD_DIR
from runner import Job, macro_outcome, measure, run_again_if_killed, run_all

BUILD = DEFAULT_BUILD_DIR.resolve()
NAMES = ("hakmem", "glibc", "jemalloc", "mimalloc", "tcmalloc")


def allocators() -> dict:
    found = find_allocators(BUILD, [], ["hakmem", "mimalloc", "tcmalloc"])
    return {allocator.name: allocator for allocator in found}


def run_bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCH / "run_bench.py"), "--build-dir", str(BUILD), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class MeasureTest(unittest.TestCase):
    def setUp(self):
        self.glibc = allocators()["glibc"]

    def usage_of(self, *command: str) -> dict:
        usage = {}

        def parse(_stdout: str, figures: dict):
            usage.update(figures)
            return macro_outcome("test", '{"malloc": "/lib/libc.so.6", "operations": 1, "checksum": "1"}', figures)

        measure(BUILD, self.glibc, Job(command[0], list(command), parse))
        return usage

    def test_peak_rss_is_the_programs_own(self):
        # A parent's peak RSS is inherited over fork and exec: Python's would show here.
        self.assertLess(self.usage_of("/bin/true")["peak_rss_bytes"], 6 << 20)
        filled = self.usage_of(sys.executable, "-c", "b'x' * (64 << 20)")["peak_rss_bytes"]
        self.assertGreater(filled, 64 << 20)
        self.assertLess(filled, 96 << 20)

    def test_wall_and_cpu_time(self):
        usage = self.usage_of("/bin/sleep", "0.2")
        self.assertGreaterEqual(usage["wall_seconds"], 0.2)
        self.assertLess(usage["user_seconds"] + usage["sys_seconds"], 0.1)

    def test_resident_memory_over_time(self):
        # 40 MiB for 0.3 s, then 80 MiB for 0.3 s.
        program = "import time; a = b'x' * (40 << 20); time.sleep(0.3); b = b'y' * (40 << 20); time.sleep(0.3)"
        usage = self.usage_of(sys.executable, "-c", program)
        curve = usage["rss_bytes"]
        seconds = len(curve) * usage["rss_period_seconds"]
        self.assertGreater(seconds, 0.5)
        self.assertLessEqual(seconds, usage["wall_seconds"])
        self.assertTrue(any(40 << 20 < value < 64 << 20 for value in curve), curve)
        self.assertGreater(max(curve), 80 << 20)
        self.assertLessEqual(max(curve), usage["peak_rss_bytes"] + (1 << 20))

    def test_points_are_bounded_and_cover_the_whole_run(self):
        usage = self.usage_of("/bin/sleep", "2.5")
        self.assertLess(len(usage["rss_bytes"]), 128)
        covered = len(usage["rss_bytes"]) * usage["rss_period_seconds"]
        self.assertLessEqual(covered, usage["wall_seconds"])
        self.assertGreater(covered, 2.25)

    def test_variables_reach_the_program(self):
        library = allocators()["jemalloc"].library
        (added,) = find_allocators(BUILD, [f"tuned={library},GLIBC_TUNABLES=a=b,HOME=/tmp"], [*NAMES])
        self.assertEqual(added.environment, {"GLIBC_TUNABLES": "a=b", "HOME": "/tmp"})
        seen = []

        def parse(stdout: str, usage: dict):
            seen.append(stdout)
            return macro_outcome("test", f'{{"malloc": "{library}", "operations": 1, "checksum": "1"}}', usage)

        measure(BUILD, added, Job("sh", ["/bin/sh", "-c", "echo $GLIBC_TUNABLES $HOME"], parse))
        self.assertEqual(seen, ["a=b /tmp\n"])

    def test_failures_are_said(self):
        for command, message in (
            (["/bin/sh", "-c", "echo went wrong >&2; exit 3"], "exit status 3: went wrong"),
            (["/bin/sh", "-c", "kill -SEGV $$"], "killed by SIGSEGV"),
            (["/nonexistent"], "No such file"),
        ):
            with self.assertRaisesRegex(BenchError, message):
                self.usage_of(*command)

    @staticmethod
    def job_of(script: str, *arguments: str) -> Job:
        line = '{"malloc": "/lib/libc.so.6", "operations": 1, "checksum": "1"}'
        return Job("sh", ["/bin/sh", "-c", script, *arguments], lambda _, usage: macro_outcome("t", line, usage))

    def test_a_peer_that_crashes_now_and_then_is_run_again(self):
        with tempfile.TemporaryDirectory() as folder:
            script = 'echo >>"$0"; [ "$(wc -l <"$0")" -ge 3 ] || kill -SEGV $$'
            job = self.job_of(script, f"{folder}/runs")
            with contextlib.redirect_stderr(io.StringIO()) as said:
                run_again_if_killed(BUILD, job, self.glibc)
            self.assertEqual(said.getvalue(), "bench: sh under glibc: killed by SIGSEGV: no message\n" * 2)
            (Path(folder) / "runs").write_text("", encoding="utf-8")
            with self.assertRaisesRegex(BenchError, "killed by SIGSEGV"):
                run_again_if_killed(BUILD, job, replace(self.glibc, name="hakmem"))

    def test_a_peer_that_goes_on_crashing_is_left_out(self):
        job = self.job_of('[ "$CRASH" != 1 ] || kill -SEGV $$')
        crashing = replace(self.glibc, name="crashing", environment={"CRASH": "1"})
        with contextlib.redirect_stderr(io.StringIO()):
            samples = run_all(BUILD, [job], [self.glibc, crashing], 2).samples
        self.assertEqual({name: len(runs) for name, runs in samples["t"].items()}, {"glibc": 2})


class CommandTest(unittest.TestCase):
    def test_one_run_under_glibc_and_a_peer(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.json"
            arguments = ["--quick", "--runs", "1", "--only", "mixed", "--json", str(path)]
            left_out = ["--without", "hakmem", "--without", "mimalloc", "--without", "tcmalloc"]
            result = run_bench(*arguments, *left_out)
            self.assertEqual(result.returncode, 0, result.stderr)
            document = json.loads(path.read_text(encoding="utf-8"))
            self.assertEqual(list(document["allocators"]), ["glibc", "jemalloc"])
            self.assertEqual(document["samples"]["mixed"].keys(), {"glibc", "jemalloc"})
            self.assertEqual(len(document["noise_samples"]["mixed"]), 6)
            for samples in document["samples"]["mixed"].values():
                self.assertEqual(len(samples), 1)
                self.assertGreater(samples[0]["time_seconds"], 0.01)
                # 120,000 long-lived blocks with a mean of some 500 bytes.
                self.assertGreater(samples[0]["peak_rss_bytes"], 40 << 20)
                self.assertGreater(samples[0]["peak_rss_bytes"], samples[0]["mean_rss_bytes"])
            noise, table = (
                result.stdout.index(text) for text in ("Noise, jemalloc against itself, time:", "### Time, s")
            )
            self.assertLess(noise, table)
            self.assertIn("Geometric means against the best peer", result.stdout)
            self.assertLess(result.stderr.index("noise 6 of 6 finished"), result.stderr.index("run 1 of 1 finished"))
            compared = subprocess.run(
                [sys.executable, BENCH / "run_bench.py", "compare", path, path, "--allocator", "glibc"],
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(compared.returncode, 0, compared.stderr)

    def test_micro_benchmark(self):
        result = run_bench(
            *("--micro", "--quick", "--runs", "1", "--only", "malloc_free/64,remote_free/16"),
            *("--without", "hakmem", "--without", "mimalloc", "--without", "tcmalloc"),
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"\| malloc_free/64 +\| +[0-9.]+ \([0-9.]+\) \| +[0-9.]+ \(1.00\) \|")
        self.assertIn("remote_free/16", result.stdout)

    def test_preload_without_effect_is_noticed(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as library:
            library.write(b"not a library")
            library.flush()
            left_out = [word for name in ("hakmem", "jemalloc", "mimalloc", "tcmalloc") for word in ("--without", name)]
            result = run_bench("--quick", "--only", "mixed", *left_out, "--with", f"broken={library.name}")
        self.assertEqual(result.returncode, 2)
        self.assertIn("mixed under broken: the preload had no effect", result.stderr)

    def test_unknown_micro_benchmark(self):
        result = run_bench("--micro", "--only", "nothing", "--without", "hakmem")
        self.assertEqual(result.returncode, 2)
        self.assertIn("Failed to match any benchmarks", result.stderr)

    def test_bad_arguments_are_one_clear_line(self):
        without_hakmem = ["--without", "hakmem"]
        for arguments, message in (
            (["--only", "nothing", *without_hakmem], "--only nothing: no such test"),
            (["--without", "nothing"], "--without nothing: no such allocator"),
            (["--with", "x", *without_hakmem], "must be NAME=PATH"),
            (["--with", "x=/bin/true,y", *without_hakmem], "must be NAME=PATH or NAME=PATH,VARIABLE=VALUE"),
            (["--with", "x=/nonexistent", *without_hakmem], "there is no file"),
            (["--with", "glibc=/bin/true", *without_hakmem], "there is a glibc already"),
            (["--json", "/nonexistent/x.json", *without_hakmem], "--json /nonexistent/x.json: No such file"),
            (["--plots", "/proc/x", *without_hakmem], "--plots /proc/x: No such file"),
            (["--build-dir", "/nonexistent"], "/nonexistent/libhakmem.so is missing"),
            (["--at-most", "1.25", *without_hakmem], "--at-most needs hakmem and a peer"),
        ):
            result = run_bench(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertIn(message, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)


if __name__ == "__main__":
    unittest.main()
