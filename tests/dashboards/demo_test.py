#!/usr/bin/env python3
"""The demo as a reader runs it, without a terminal: its account, its errors, and that nothing is left of it."""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEMO = os.path.join(ROOT, "dashboards", "demo", "demo.py")
sys.path.insert(0, os.path.dirname(DEMO))

from processes import Processes  # noqa: E402
from servers import LIBRARY  # noqa: E402

library = LIBRARY

ACCOUNT = [
    r"^redis-server on hakmem serves http://127\.0\.0\.1:\d+/metrics, Prometheus runs at http://127\.0\.0\.1:\d+$",
    r"^ +\d+ s  fill +resident +[\d.]+ [KMG]iB  live ",
    r"^== where the memory of redis-server is, after \d+ s and [\d,]+ commands ==$",
    r"^Resident memory: [\d.]+ [MG]iB by the kernel's figure",
    r"^  live +[\d.]+ MiB +[\d.]+ %",
    r"^  internal_fragmentation +[\d.]+ [KM]iB +[\d.]+ %",
    r"^  slab_free +[\d.]+ \w+ +[\d.]+ %",
    r"^  metadata +[\d.]+ [KM]iB +[\d.]+ %",
    r"^  outside +[\d.]+ [KM]iB +[\d.]+ %",
    r"^  unexplained +-?[\d.]+ \w+ +-?[\d.]+ %",
    r"^Fragmentation before and after$",
    r"^ +filled +fragmented +at the end$",
    r"^  external +[\d.]+ \w+ +[\d.]+ \w+ +[\d.]+ \w+$",
    r"^At the peak [\d.]+ [MG]iB were live in a heap of [\d.]+ [MG]iB: realized fragmentation [\d.]+ %$",
    r"^Findings ",
    r"^  fragmented +(none|[a-z_, ]+)$",
    r"^Refills of thread caches: [\d,]+$",
    r"^  own_frees +[\d,]+ +[\d.]+ % ",
    r"^  fresh_carve +[\d,]+ +[\d.]+ % ",
    r"^superslab_refill: [\d.]+ \w+ in \d+ s, [\d.]+ % of the CPU time$",
    r"^  scan +[\d.]+ \w+ +[\d.]+ % ",
    r"^  map +[\d.]+ \w+ +[\d.]+ % ",
    r"^  metadata +[\d.]+ \w+ +[\d.]+ % ",
    r"^  carve +[\d.]+ \w+ +[\d.]+ % ",
    r"^The 5 most wasteful size classes$",
    r"^Purging: [1-9][\d,]* runs gave back [\d.]+ [KMG]iB in .*; [\d.]+ [MG]iB may be held back, [\d.]+ \w+ more wait to be purged$",
    r"^Prometheus scraped \d+ times and saw a peak of [\d.]+ [MG]iB resident$",
    r"^  /metrics    http://127\.0\.0\.1:\d+/metrics",
    r"^  Prometheus  http://127\.0\.0\.1:\d+/graph",
    r"^  Dashboard   .*hakmem-fragmentation\.json",
]


def processes():
    """All processes: (pid, start time) -> (name, parent, state)."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                name, rest = re.match(r"\d+ \((.*)\) (.*)", file.read(), re.DOTALL).groups()
        except OSError:
            continue
        fields = rest.split()
        found[int(pid), int(fields[19])] = (name, int(fields[1]), fields[0])
    return found


BOTH = ["prometheus", "redis-server"]


class Demo:
    """A run of the demo, and the processes that it started."""

    def __init__(self, *arguments, environment=None):
        self.temporary = tempfile.TemporaryDirectory()
        self.started = {}  # pid and start time -> name, of every child that was ever seen
        variables = {**os.environ, "TMPDIR": self.temporary.name, **(environment or {})}
        self.process = subprocess.Popen([sys.executable, DEMO, *arguments], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
        self.output = ""

    def read_until(self, pattern, seconds=60):
        """Reads lines up to one that matches."""
        deadline = time.monotonic() + seconds
        for line in self.process.stdout:
            self.output += line
            if re.search(pattern, line):
                return
            if time.monotonic() > deadline:
                break
        raise AssertionError(f"no line like {pattern} in:\n{self.output}\n{self.process.stderr.read()}")

    def finish(self, seconds=60):
        """Waits for the end; returns (status, stdout, stderr)."""
        out, err = self.process.communicate(timeout=seconds)
        self.output += out
        return self.process.returncode, self.output, err

    def children(self):
        """Names of the demo's children; remembers who they are."""
        for (pid, start), (name, parent, _) in processes().items():
            if parent == self.process.pid:
                self.started[pid, start] = name
        return sorted(self.started.values())

    def wait_for_children(self, names, seconds=20):
        """Waits until these children are there."""
        deadline = time.monotonic() + seconds
        while self.children() != names:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.children()} rather than {names}")
            time.sleep(0.02)

    def left(self):
        """Names of those children that are still alive."""
        living = processes()
        return [name for key, name in self.started.items() if key in living and living[key][2] != "Z"]

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=30)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
        self.temporary.cleanup()


class ProcessesTest(unittest.TestCase):
    def test_a_signal_while_a_process_starts(self):
        """It comes when the process is known, and so is stopped."""
        class Ended(Exception):
            pass

        def end(*_):
            raise Ended

        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, end))
        started = []

        def interrupted(*arguments, _start=subprocess.Popen, **options):
            started.append(_start(*arguments, **options))
            os.kill(os.getpid(), signal.SIGHUP)
            return started[0]

        with tempfile.TemporaryDirectory() as folder, mock.patch("subprocess.Popen", interrupted):
            with self.assertRaises(Ended), Processes(folder) as processes:
                processes.start("sleep", ["sleep", "60"])
        self.assertEqual([process.returncode for process in started], [-signal.SIGTERM])


class DemoTest(unittest.TestCase):
    def start(self, *arguments, **options):
        demo = Demo("--library", library, *arguments, **options)
        self.addCleanup(demo.close)
        return demo

    def assert_gone(self, demo, seconds=0.0):
        self.assertTrue(demo.started)
        deadline = time.monotonic() + seconds
        while demo.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(demo.left(), [])

    def test_account(self):
        """A run of 20 s with the usual port taken ends with every line of the account."""
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", 19464))
                taken.listen()
            except OSError:
                pass  # somebody else has it, which is as good
            demo = self.start("--for", "20")
            demo.read_until(r"  fill ")
            demo.wait_for_children(BOTH)
            status, out, err = demo.finish()
        self.assertEqual((status, err), (0, ""), out)
        lines = out.splitlines()
        for pattern in ACCOUNT:
            self.assertTrue(any(re.search(pattern, line) for line in lines), f"no line like {pattern} in:\n{out}")
        self.assertNotIn(":19464/", out)
        self.assert_gone(demo)
        self.assertEqual(os.listdir(demo.temporary.name), [])
        self.check_sums(lines)
        self.check_fragmentation(lines)

    def check_fragmentation(self, lines):
        """The demo does what it is there for: what it deletes leaves holes."""
        shares = next(line for line in lines if line.startswith("    of the heap"))
        filled, fragmented, _ = (float(share) for share in re.findall(r"([\d.]+) %", shares))
        self.assertGreater(fragmented, filled + 10.0, shares)

    def check_sums(self, lines):
        """The parts and the unexplained rest add up to the whole, as printed."""
        shares = [float(match.group(1)) for line in lines[:lines.index("Fragmentation before and after")]
                  if (match := re.match(r"^  [a-z_]+ +-?[\d.]+ \w+ +(-?[\d.]+) %", line))]
        self.assertEqual(len(shares), 10)
        self.assertAlmostEqual(sum(shares), 100.0, delta=1.0)

    def test_keep_until_interrupt(self):
        demo = self.start("--for", "5", "--keep")
        demo.read_until("A light load goes on")
        demo.wait_for_children(BOTH)
        demo.process.send_signal(signal.SIGINT)
        status, out, err = demo.finish(20)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("nothing is left running", out)
        self.assert_gone(demo)
        self.assertEqual(os.listdir(demo.temporary.name), [])

    def test_terminate(self):
        demo = self.start("--for", "60")
        demo.read_until(r"  fill ")
        demo.wait_for_children(BOTH)
        demo.process.terminate()
        status, _, err = demo.finish(20)
        self.assertEqual((status, err), (128 + signal.SIGTERM, ""))
        self.assert_gone(demo)

    def test_hang_up_while_starting(self):
        demo = self.start("--for", "60")
        demo.wait_for_children(BOTH)
        demo.process.send_signal(signal.SIGHUP)
        status, _, err = demo.finish(20)
        self.assertEqual((status, err), (128 + signal.SIGHUP, ""))
        self.assert_gone(demo)

    def test_killed(self):
        """Even SIGKILL leaves no process."""
        demo = self.start("--for", "60")
        demo.wait_for_children(BOTH)
        demo.process.kill()
        demo.finish(20)
        self.assert_gone(demo, seconds=5)

    def test_nobody_reads(self):
        """`./run demo | head -1` ends, too."""
        demo = self.start("--for", "60")
        demo.read_until(r"^Starting")
        demo.process.stdout.close()
        demo.wait_for_children(BOTH)
        self.assertEqual(demo.process.wait(30), 128 + signal.SIGPIPE)
        self.assertEqual(demo.process.stderr.read(), "")
        self.assert_gone(demo)

    def test_redis_dies(self):
        demo = self.start("--for", "60")
        demo.read_until(r"  fill ")
        demo.children()
        (pid, _), = [key for key, name in demo.started.items() if name == "redis-server"]
        os.kill(pid, signal.SIGKILL)
        status, _, err = demo.finish(20)
        self.assertEqual(status, 1)
        self.assertRegex(err, r"^demo: redis-server ended with status -9: .*\n$")
        self.assert_gone(demo)

    def test_errors_in_one_line(self):
        cases = [
            ({"PATH": "/nonexistent"}, library, "demo: redis-server is missing: apt-get install redis-server\n"),
            ({}, "/nonexistent.so", "demo: /nonexistent.so is not built: ./run build telemetry\n"),
        ]
        only_redis = tempfile.TemporaryDirectory()
        self.addCleanup(only_redis.cleanup)
        os.symlink(shutil.which("redis-server"), os.path.join(only_redis.name, "redis-server"))
        cases.append(({"PATH": only_redis.name}, library, "demo: prometheus is missing: apt-get install prometheus\n"))
        for environment, path, message in cases:
            with self.subTest(message=message):
                demo = Demo("--library", path, environment=environment)
                self.addCleanup(demo.close)
                self.assertEqual(demo.finish(20), (1, "", message))

    def test_prometheus_fails(self):
        """Redis runs already when Prometheus fails: it goes, too, and the reason is told."""
        with tempfile.TemporaryDirectory() as folder:
            failing = os.path.join(folder, "prometheus")
            with open(failing, "w", encoding="ascii") as file:
                file.write("#!/bin/sh\nsleep 1\necho no space left >&2\nexit 3\n")
            os.chmod(failing, 0o755)
            demo = self.start(environment={"PATH": f"{folder}:{os.environ['PATH']}"})
            demo.wait_for_children(BOTH)
            status, _, err = demo.finish(30)
        self.assertEqual((status, err), (1, "demo: prometheus ended with status 3: no space left\n"))
        self.assert_gone(demo)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--library", default=LIBRARY)
    options, rest = parser.parse_known_args()
    library = options.library
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
