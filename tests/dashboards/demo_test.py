#!/usr/bin/env python3
"""The demo as a reader runs it, without a terminal: its account, its errors, and that nothing is left of it."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEMO = os.path.join(ROOT, "dashboards", "demo", "demo.py")
sys.path.insert(0, os.path.dirname(DEMO))

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
    r"^Refills of thread caches: [\d,]+$",
    r"^  own_frees +[\d,]+ +[\d.]+ % ",
    r"^  fresh_carve +[\d,]+ +[\d.]+ % ",
    r"^superslab_refill: [\d.]+ \w+ in \d+ s, [\d.]+ % of one CPU$",
    r"^  scan +[\d.]+ \w+ +[\d.]+ % ",
    r"^  map +[\d.]+ \w+ +[\d.]+ % ",
    r"^  metadata +[\d.]+ \w+ +[\d.]+ % ",
    r"^  carve +[\d.]+ \w+ +[\d.]+ % ",
    r"^The 5 most wasteful size classes$",
    r"^Purging: [1-9][\d,]* runs gave back [\d.]+ [KMG]iB in ",
    r"^Prometheus scraped \d+ times and saw a peak of [\d.]+ [MG]iB resident$",
    r"^  /metrics    http://127\.0\.0\.1:\d+/metrics",
    r"^  Prometheus  http://127\.0\.0\.1:\d+/graph",
    r"^  Dashboard   .*hakmem-fragmentation\.json",
]


class Demo:
    """A run of the demo. All its processes carry a token in their environment, by which they are found."""

    def __init__(self, *arguments, program=DEMO, environment=None):
        self.token = f"DEMO_TEST={uuid.uuid4()}"
        self.temporary = tempfile.TemporaryDirectory()
        variables = dict(os.environ, TMPDIR=self.temporary.name, **(environment or {}))
        name, value = self.token.split("=")
        variables[name] = value
        self.process = subprocess.Popen([sys.executable, program, *arguments], stdin=subprocess.DEVNULL,
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
        """Names of the living processes of this run, but for the demo itself."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) == self.process.pid:
                continue
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    mine = self.token.encode() in file.read().split(b"\0")
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    name = file.read().strip()
            except OSError:
                continue
            if mine:
                found.append(name)
        return sorted(found)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=30)
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
        self.temporary.cleanup()


class DemoTest(unittest.TestCase):
    def start(self, *arguments, **options):
        demo = Demo("--library", library, *arguments, **options)
        self.addCleanup(demo.close)
        return demo

    def assert_gone(self, demo, seconds=0.0):
        deadline = time.monotonic() + seconds
        while demo.children() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(demo.children(), [])

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
            self.assertEqual(demo.children(), ["prometheus", "redis-server"])
            status, out, err = demo.finish()
        self.assertEqual((status, err), (0, ""), out)
        lines = out.splitlines()
        for pattern in ACCOUNT:
            self.assertTrue(any(re.search(pattern, line) for line in lines), f"no line like {pattern} in:\n{out}")
        self.assertNotIn(":19464/", out)
        self.assert_gone(demo)
        self.assertEqual(os.listdir(demo.temporary.name), [])
        self.check_sums(lines)

    def check_sums(self, lines):
        """The parts and the unexplained rest add up to the whole, as printed."""
        shares = [float(match.group(1)) for line in lines[:lines.index("Fragmentation before and after")]
                  if (match := re.match(r"^  [a-z_]+ +-?[\d.]+ \w+ +(-?[\d.]+) %", line))]
        self.assertEqual(len(shares), 10)
        self.assertAlmostEqual(sum(shares), 100.0, delta=1.0)

    def test_keep_until_interrupt(self):
        demo = self.start("--for", "5", "--keep")
        demo.read_until("A light load goes on")
        self.assertEqual(demo.children(), ["prometheus", "redis-server"])
        demo.process.send_signal(signal.SIGINT)
        status, out, err = demo.finish(20)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("nothing is left running", out)
        self.assert_gone(demo)
        self.assertEqual(os.listdir(demo.temporary.name), [])

    def test_terminate_and_hang_up(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            with self.subTest(signal=number.name):
                demo = self.start("--for", "60")
                demo.read_until(r"  fill ")
                self.assertEqual(demo.children(), ["prometheus", "redis-server"])
                demo.process.send_signal(number)
                status, _, err = demo.finish(20)
                self.assertEqual((status, err), (128 + number, ""))
                self.assert_gone(demo)

    def test_killed(self):
        """Even SIGKILL leaves no process."""
        demo = self.start("--for", "60")
        demo.read_until(r"  fill ")
        self.assertEqual(demo.children(), ["prometheus", "redis-server"])
        demo.process.kill()
        demo.finish(20)
        self.assert_gone(demo, seconds=5)

    def test_nobody_reads(self):
        """`./run demo | head -1` ends, too."""
        demo = self.start("--for", "60")
        demo.read_until(r"Prometheus runs")
        demo.process.stdout.close()
        self.assertEqual(demo.process.wait(20), 128 + signal.SIGPIPE)
        self.assertEqual(demo.process.stderr.read(), "")
        self.assert_gone(demo)

    def test_redis_dies(self):
        demo = self.start("--for", "60")
        demo.read_until(r"  fill ")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    name, parent = re.match(r"\d+ \((.*)\) \S (\d+)", file.read()).groups()
            except OSError:
                continue
            if int(parent) == demo.process.pid and name == "redis-server":
                os.kill(int(pid), signal.SIGKILL)
        status, _, err = demo.finish(20)
        self.assertEqual(status, 1)
        self.assertRegex(err, r"^demo: redis-server ended with status -9: .*\n$")
        self.assert_gone(demo)

    def test_errors_in_one_line(self):
        cases = [
            ({"PATH": "/nonexistent"}, library, "demo: redis-server is missing: apt-get install redis-server\n"),
            ({}, "/nonexistent.so", "demo: /nonexistent.so is not built: ./run build telemetry\n"),
        ]
        for environment, path, message in cases:
            with self.subTest(message=message):
                demo = Demo("--library", path, environment=environment)
                self.addCleanup(demo.close)
                self.assertEqual(demo.finish(20), (1, "", message))

    def test_prometheus_missing(self):
        """Redis runs already when Prometheus turns out to be missing: it goes, too."""
        with tempfile.TemporaryDirectory() as folder:
            os.symlink("/usr/bin/redis-server", os.path.join(folder, "redis-server"))
            demo = self.start(environment={"PATH": folder})
            status, _, err = demo.finish(30)
        self.assertEqual((status, err), (1, "demo: prometheus is missing: apt-get install prometheus\n"))
        self.assert_gone(demo)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--library", default=LIBRARY)
    options, rest = parser.parse_known_args()
    library = options.library
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
