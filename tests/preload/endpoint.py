"""The metrics of servers under the telemetry library: from their own endpoint and from the machine's exporter."""

import contextlib
import os
import re
import sys
import urllib.request

import harness

# The build's folder: every test file is called with the library under test.
BUILD = os.path.dirname(os.path.abspath(sys.argv[1]))


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def answers(port):
    try:
        return bool(scrape(port))
    except OSError:
        return False


def wait_for(port):
    harness.wait_until(lambda: answers(port), 20, "an endpoint")


@contextlib.contextmanager
def host_exporter(pages, young=0):
    """A running hakmem-exporter of the library's build; gives its port. From `young` seconds on processes are shown by pid."""
    port = harness.free_port()
    program = os.path.join(BUILD, "hakmem-exporter")
    with harness.server([program, "--listen", f"127.0.0.1:{port}", "--pages", pages, "--young", str(young)], False):
        wait_for(port)
        yield port


def by_pid(port, name):
    """The sum of a family's series for each label pid; "" is the process that serves."""
    sums = {}
    for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", scrape(port), re.MULTILINE):
        pid = re.search(r'\bpid="(\w+)"', labels)
        pid = pid.group(1) if pid else ""
        sums[pid] = sums.get(pid, 0) + float(value)
    return sums


def names(port):
    """The names of all processes that are shown."""
    return set(re.findall(r'\bcomm="(.*?)"', scrape(port)))


def lint(port):
    """promtool finds nothing to say of a scrape."""
    result = harness.run([harness.program("promtool"), "check", "metrics"], False, stdin=scrape(port).encode())
    if result != (0, b"", b""):
        raise AssertionError(result)
