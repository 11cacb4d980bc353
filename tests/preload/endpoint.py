"""The metrics of servers under the telemetry library: from their own endpoint and from the machine's exporter."""

import contextlib
import os
import re
import sys
import threading
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
    return sums_by_pid(scrape(port), name)


def sums_by_pid(text, name):
    """The same, of a scrape's text."""
    sums = {}
    for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
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


class AccountWatch(threading.Thread):
    """Scrapes until it is stopped, and keeps what the parts of resident memory leave unexplained, process by process."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.stopped = threading.Event()
        self.looks = []  # (pid, unexplained, resident), in bytes
        self.failure = None

    def run(self):
        try:
            while not self.stopped.is_set():
                text = scrape(self.port)
                unexplained = sums_by_pid(text, "hakmem_resident_unexplained_bytes")
                resident = sums_by_pid(text, "hakmem_process_resident_bytes")
                self.looks += [(pid, unexplained[pid], resident[pid]) for pid in unexplained]
                self.stopped.wait(0.02)
        except (OSError, KeyError) as error:
            self.failure = error


@contextlib.contextmanager
def account_adds_up(test, port, least_growth, least_processes=1):
    """While the block runs, the account of no process served at `port` leaves more than 2 % or 1 MiB unexplained.

    The block must make the resident memory of a process differ by `least_growth` bytes.
    """
    watch = AccountWatch(port)
    watch.start()
    try:
        yield watch
    finally:
        watch.stopped.set()
        watch.join(20)
    test.assertIsNone(watch.failure)
    sizes = {}
    for pid, _, resident in watch.looks:
        sizes.setdefault(pid, []).append(resident)
    test.assertGreaterEqual(max(max(seen) - min(seen) for seen in sizes.values()), least_growth)
    test.assertGreaterEqual(len(sizes), least_processes)
    limit = lambda look: max(0.02 * look[2], 1 << 20)
    worst = max(watch.looks, key=lambda look: abs(look[1]) / limit(look))
    print(f"{len(watch.looks)} looks at {len(sizes)} processes; at worst {worst[1] / 1024:.0f} KiB of "
          f"{worst[2] / 1024:.0f} are unexplained", file=sys.stderr)
    test.assertLessEqual(abs(worst[1]), limit(worst), worst)
