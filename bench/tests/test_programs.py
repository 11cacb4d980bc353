"""The real programs: the same work under every allocator, and what must be noticed when it is not."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

import programs
import servers
from allocators import Allocator, find_allocators
from errors import BenchError
from foreign import Program, malloc_provider
from inputs import cpp_source, git_repository, prepared, smt_problem
from programs import PROGRAMS, selected_programs
from run_bench import DEFAULT_BUILD_DIR
from runner import Job, Outcome, measure, run_all, usage_curve, usage_sample

BUILD = DEFAULT_BUILD_DIR.resolve()
HAKMEM_LIBRARY = os.environ.get("BENCH_LIBRARY")
PEERS = ["jemalloc", "mimalloc", "tcmalloc"]
GLIBC = find_allocators(BUILD, [], ["hakmem", *PEERS])[0]
JEMALLOC = find_allocators(BUILD, [], ["hakmem", "glibc", "mimalloc", "tcmalloc"])[0]

# Installed wherever the tests run, and at most a second each on a machine with nothing else to do.
TRIED = ("redis", "postgresql", "sqlite", "perl", "git")


def program(name: str):
    return next(program for program in PROGRAMS if program.name == name)


def shell(script: str) -> Program:
    return Program("shell", "", "dash", ("/bin/sh", "-c", script), ("/bin/sh", "-c", ":"))


class ProgramsTest(unittest.TestCase):
    def test_same_work_under_this_library_as_without(self):
        library = Allocator("this-build", HAKMEM_LIBRARY, "", False, None) if HAKMEM_LIBRARY else JEMALLOC
        for name in TRIED:
            with self.subTest(name):
                outcomes = [program(name).run(BUILD, allocator) for allocator in (GLIBC, library)]
                self.assertEqual(outcomes[0].checksum, outcomes[1].checksum)
                if name != "redis":  # redis-benchmark draws other keys each time
                    self.assertTrue(outcomes[0].checksum)
                self.assertRegex(outcomes[0].malloc, "libc.so")
                self.assertEqual(Path(outcomes[1].malloc).name, Path(library.library).name)
                for outcome in outcomes:
                    sample = outcome.samples[name]
                    self.assertGreater(sample["time_seconds"], 0.1)
                    self.assertGreater(sample["cpu_seconds"], 0.1)
                    self.assertGreater(sample["peak_rss_bytes"], 4 << 20)

    def test_every_program_is_in_the_list_of_packages(self):
        lines = (BENCH.parent / ".ci" / "packages.txt").read_text(encoding="utf-8").splitlines()
        listed = {line.split()[0] for line in lines if line} | {"g++"}  # build-essential needs that one
        self.assertEqual({program.package for program in PROGRAMS} - listed, set())

    def test_the_server_is_gone_afterwards(self):
        seen = []

        class Watched(servers.Redis):
            def work(self, folder):
                seen.append(self.pid(folder))

        Watched().run(BUILD, GLIBC)
        self.assertFalse(Path(f"/proc/{seen[0]}").exists())

    def test_inputs_are_the_same_each_time(self):
        for generate, name in ((cpp_source, "source.cc"), (smt_problem, "problem.smt2"), (git_repository, "refs")):
            with tempfile.TemporaryDirectory() as folder:
                generate(Path(folder))
                for path in sorted((prepared(generate)).rglob("*")):
                    if name in path.parts and path.is_file():
                        again = Path(folder) / path.relative_to(prepared(generate))
                        self.assertEqual(path.read_bytes(), again.read_bytes(), path)


class ChecksTest(unittest.TestCase):
    def test_other_output_is_noticed(self):
        with self.assertRaisesRegex(BenchError, "shell under jemalloc: did other work"):
            run_all(BUILD, [shell("echo $LD_PRELOAD")], [GLIBC, JEMALLOC], 1)

    def test_other_output_file_is_noticed(self):
        with_file = shell("echo $LD_PRELOAD >{scratch}/out")
        self.assertEqual(*(with_file.run(BUILD, a).checksum for a in (GLIBC, JEMALLOC)))
        self.assertNotEqual(*(replace(with_file, outputs="out").run(BUILD, a).checksum for a in (GLIBC, JEMALLOC)))

    def test_a_library_without_malloc_is_noticed(self):
        other = replace(JEMALLOC, name="other", library="/lib/x86_64-linux-gnu/libm.so.6")
        for run in (program("perl").run, servers.Redis().run):
            with self.assertRaisesRegex(BenchError, "under other: the preload had no effect"):
                run(BUILD, other)

    def test_a_program_with_an_allocator_of_its_own_is_noticed(self):
        # Debian's Redis is linked with jemalloc, so that this one is not under the C library.
        redis = Program("redis", "", "redis-server", ("/usr/bin/redis-server", "-v"), ("/usr/bin/redis-server", "-v"))
        with self.assertRaisesRegex(BenchError, "malloc comes from .*libjemalloc.*, not from the C library"):
            redis.run(BUILD, GLIBC)

    def test_a_probe_that_fails_is_noticed(self):
        with self.assertRaisesRegex(BenchError, "exit status 7: no luck"):
            malloc_provider(("/bin/sh", "-c", "echo no luck >&2; exit 7"), None)

    def test_a_server_that_ends_is_noticed(self):
        class Refusing(servers.Redis):
            def command(self, folder):
                return [self.program(), "--port", "none"]

        class Crashing(servers.Redis):
            def work(self, folder):
                # One that Redis cannot handle: its crash report may crash in turn.
                os.kill(self.pid(folder), signal.SIGKILL)
                servers.run_client("/usr/bin/redis-cli", "-s", folder / "socket", "ping")

        for server, message in ((Refusing(), "redis under glibc: exit status 1"), (Crashing(), "killed by SIGKILL")):
            with self.assertRaisesRegex(BenchError, message):
                server.run(BUILD, GLIBC)

    def test_a_client_that_fails_is_noticed(self):
        class Asking(servers.Redis):
            def work(self, folder):
                servers.run_client("/usr/bin/redis-benchmark", "-s", folder / "nowhere", "-n", "1")

        with self.assertRaisesRegex(BenchError, "redis-benchmark: exit status 1: .*nowhere"):
            Asking().run(BUILD, GLIBC)

    def test_memory_of_descendants_counts(self):
        def parse(_stdout: str, usage: dict) -> Outcome:
            return Outcome("/lib/libc.so.6", {"test": usage_sample(usage)}, None, usage_curve(usage))

        hold = f"{sys.executable} -c 'import time; b = bytes(1) * (64 << 20); time.sleep(0.5)'"
        command = ["/bin/sh", "-c", f"{hold} & {hold}; wait"]
        outcome = measure(BUILD, GLIBC, Job("test", command, parse))
        self.assertGreater(outcome.samples["test"]["peak_rss_bytes"], 128 << 20)
        self.assertGreater(max(outcome.curve["bytes"]), 128 << 20)


class SelectionTest(unittest.TestCase):
    def setUp(self):
        missing = replace(program("perl"), name="absent", package="of-this-name", probe=("/nonexistent/program", "-v"))
        self.addCleanup(setattr, programs, "PROGRAMS", PROGRAMS)
        programs.PROGRAMS = (program("perl"), missing)

    def test_a_missing_program_is_skipped_and_said(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            found = selected_programs(None)
        self.assertEqual([program.name for program in found], ["perl"])
        line = "bench: absent skipped: no /nonexistent/program: apt-get install of-this-name\n"
        self.assertEqual(said.getvalue(), line)

    def test_none_left(self):
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(BenchError, "none of the programs"):
            selected_programs("absent")

    def test_unknown_name(self):
        with self.assertRaisesRegex(BenchError, "--only larson: no such program; there are absent, perl"):
            selected_programs("perl,larson")


class CommandTest(unittest.TestCase):
    def run_bench(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(BENCH / "run_bench.py"), "--build-dir", str(BUILD), "--without", "hakmem"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    def test_from_end_to_end(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.json"
            result = self.run_bench(
                *("--programs", "--only", "perl", "--runs", "1", "--json", str(path)),
                *("--without", "mimalloc", "--without", "tcmalloc"),
            )
            self.assertEqual(result.returncode, 0, result.stderr)
            document = json.loads(path.read_text(encoding="utf-8"))
        self.assertEqual(document["kind"], "programs")
        self.assertEqual(list(document["samples"]), ["perl"])
        self.assertRegex(" ".join(document["tests"]["perl"]), r"/usr/bin/perl .*objects.pl [0-9a-f]{12} \S+$")
        self.assertIn("## hakmem bench, programs", result.stdout)
        self.assertRegex(result.stdout, r"\| perl +\|")

    def test_two_kinds_at_once(self):
        result = self.run_bench("--programs", "--micro")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--micro, --programs and --drawn are runs of their own", result.stderr)


if __name__ == "__main__":
    unittest.main()
