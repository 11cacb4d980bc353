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


def sums_by_pid(text, name, wanted=""):
    """The same, of a scrape's text; only of the series with a label that is `wanted`."""
    sums = {}
    for labels, value in re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE):
        if wanted not in labels:
            continue
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
        self.looks = []  # (pid, unexplained, resident, live), in bytes
        self.failure = None

    def swings(self):
        """By pid, how far what is live rose since the first look and then fell."""
        first, highest, swings = {}, {}, {}
        for pid, _, _, live in self.looks:
            highest[pid] = max(highest.get(pid, 0), live)
            swing = min(highest[pid] - first.setdefault(pid, live), highest[pid] - live)
            swings[pid] = max(swings.get(pid, 0), swing)
        return swings

    def run(self):
        try:
            while not self.stopped.is_set():
                text = scrape(self.port)
                unexplained = sums_by_pid(text, "hakmem_resident_unexplained_bytes")
                resident = sums_by_pid(text, "hakmem_process_resident_bytes")
                live = sums_by_pid(text, "hakmem_resident_bytes", 'part="live"')
                self.looks += [(pid, unexplained[pid], resident[pid], live[pid]) for pid in unexplained]
                self.stopped.wait(0.02)
        except (OSError, KeyError) as error:
            self.failure = error


@contextlib.contextmanager
def account_adds_up(test, port, least_swing, least_processes=1):
    """While the block runs, the account of no process served at `port` leaves more than 2 % or 1 MiB unexplained.

    The block must make what is live in a process rise, and then fall, by `least_swing` bytes.
    """
    watch = AccountWatch(port)
    watch.start()
    try:
        yield watch
    finally:
        watch.stopped.set()
        watch.join(20)
    test.assertIsNone(watch.failure)
    swings = watch.swings()
    test.assertGreaterEqual(max(swings.values()), least_swing)
    test.assertGreaterEqual(len(swings), least_processes)
    limit = lambda look: max(0.02 * look[2], 1 << 20)
    worst = max(watch.looks, key=lambda look: abs(look[1]) / limit(look))
    print(f"{len(watch.looks)} looks at {len(swings)} processes; at worst {worst[1] / 1024:.0f} KiB of "
          f"{worst[2] / 1024:.0f} are unexplained", file=sys.stderr)
    test.assertLessEqual(abs(worst[1]), limit(worst), worst)
