"""What the tests of real programs share: running a program with and without the
preloaded library, servers that are always stopped, and looking into /proc.

Every test file is called as `NAME_test.py LIBRARY [unittest arguments]`. The
library is preloaded for the program under test alone, never for Python here.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

LIBRARY = ""


def main():
    """Takes the library from the command line and runs the tests of the file."""
    global LIBRARY
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        sys.exit(f"usage: {sys.argv[0]} LIBRARY [unittest arguments]")
    LIBRARY = os.path.abspath(sys.argv.pop(1))
    # The test files import this module under its name, not as __main__.
    unittest.main(module="__main__", verbosity=2)


def program(name):
    """Path of an installed program; its absence is a failure, not a skip."""
    path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise AssertionError(f"{name} is not installed")
    return path


def environment(preload, **extra):
    """The environment of a program: nothing of hakmem's but, on demand, the preload."""
    variables = {name: value for name, value in os.environ.items()
                 if not name.startswith(("HAKMEM_", "LD_", "MALLOC_", "GLIBC_TUNABLES", "PYTHON", "GIT_", "PERL"))}
    variables.update({"LC_ALL": "C.UTF-8", "TZ": "UTC"}, **extra)
    if preload:
        variables["LD_PRELOAD"] = LIBRARY
    return variables


def run(command, preload, *, cwd=None, stdin=None, timeout=100, variables=None):
    """Runs a program to its end; returns (status, stdout, stderr) as bytes."""
    result = subprocess.run(command, env=environment(preload, **(variables or {})), cwd=cwd, input=stdin,
                            stdin=subprocess.DEVNULL if stdin is None else None,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, check=False)
    return result.returncode, result.stdout, result.stderr


def is_mapped(pid):
    """Whether the library is mapped into a running process."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return any(line.rstrip().endswith(LIBRARY) for line in maps)


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    """A TCP port of the loopback interface that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unprivileged():
    """What to put before a command so that it does not run as root."""
    if os.geteuid() != 0:
        return []
    return [program("setpriv"), "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


def resident_kib(pid):
    """Resident memory of a process in KiB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@contextlib.contextmanager
def server(command, preload, *, cwd=None, variables=None):
    """A running server; stopped by its pid at the end, whatever happened.

    Its output goes to files: `server.log()` reads both streams at any time.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment(preload, **(variables or {})), cwd=cwd,
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

        def log():
            return os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")

        process.log = log
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class PreloadTest(unittest.TestCase):
    """Tests of one program, with a scratch directory of their own."""

    maxDiff = 4000

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="hakmem-preload-")
        self.addCleanup(scratch.cleanup)
        self.scratch = scratch.name

    def directory(self, name):
        """A fresh directory inside the scratch directory."""
        path = os.path.join(self.scratch, name)
        os.makedirs(path)
        return path

    def check_same(self, command, **arguments):
        """The program gives the same status, stdout and stderr with and without the preload.

        Returns the common (status, stdout, stderr).
        """
        plain = run(command, False, **arguments)
        preloaded = run(command, True, **arguments)
        self.assertEqual(plain, preloaded, f"{command} differs under the preload")
        return plain

    def check_quiet(self, text):
        """No line of hakmem's in what a program wrote."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        lines = [line for line in text.splitlines() if "hakmem" in line.lower() or "ERROR: ld.so" in line]
        self.assertEqual([], lines)
