#!/usr/bin/env python3
"""A real Redis on hakmem's telemetry build, fragmented and scraped, and an account of where its memory is.

    ./run demo [--for SECONDS] [--keep]

Redis and Prometheus run on loopback with their data in a temporary folder, and
are gone when the demo ends, however it ends.
"""

import argparse
import os
import signal
import sys
import tempfile
import time

import account
from processes import ENDING_SIGNALS, DemoError, Processes
from servers import LIBRARY, ROOT, Prometheus, Redis, check_installed
from workload import MIB, Workload

DASHBOARD = os.path.join(ROOT, "dashboards", "generated", "hakmem-fragmentation.json")
PROGRESS_SECONDS = 2.0
THINNED_SHARE = 0.6
REWRITTEN_SHARE = 0.6

# Part of the time that each phase takes; the rest is steady load.
PHASE_SHARES = {"fill": 0.35, "thin out": 0.15, "rewrite": 0.20, "drop": 0.10}


class Stopped(BaseException):
    """A signal asked the demo to end, or nobody reads what it says."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def say(line=""):
    """One line, at once: the output may be a pipe."""
    try:
        print(line, flush=True)
    except OSError:
        # The pipe or the terminal is gone. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Stopped(signal.SIGPIPE) from None


class Show:
    """Drives the phases and prints a line every other second."""

    def __init__(self, redis, processes):
        self._redis = redis
        self._processes = processes
        self._start = time.monotonic()
        self._next_line = self._start

    def seconds(self):
        return time.monotonic() - self._start

    def run(self, phase, steps, seconds, pause=0.0):
        """Runs a phase evenly over `seconds`, and no longer."""
        start = time.monotonic()
        for done in steps:
            now = time.monotonic()
            if now >= self._next_line:
                self._processes.check()
                say(account.progress_line(self.seconds(), phase, self._redis.scrape()))
                self._next_line = now + PROGRESS_SECONDS
            if now - start >= seconds:
                return
            ahead = done * seconds - (now - start)
            time.sleep(max(pause, min(ahead, 0.5)))


def phases(workload, limit_bytes):
    """The phases in order: (name, generator)."""
    return [
        ("fill", workload.fill(limit_bytes)),
        ("thin out", workload.thin_out(THINNED_SHARE)),
        ("rewrite", workload.rewrite(THINNED_SHARE, REWRITTEN_SHARE)),
        ("drop", workload.drop()),
    ]


def run_phases(show, redis, workload, seconds, limit_bytes):
    """Runs all phases; returns the scrapes before, when fragmented, and at the end."""
    moments = []
    for name, steps in phases(workload, limit_bytes):
        show.run(name, steps, PHASE_SHARES[name] * seconds)
        if name == "fill":
            moments.append(("filled", redis.scrape()))
        elif name == "rewrite":
            moments.append(("fragmented", redis.scrape()))
    show.run("steady", workload.steady(), seconds - show.seconds(), pause=0.02)
    return moments


def print_account(show, redis, prometheus, workload, moments):
    end = redis.scrape()
    moments = [*moments, ("at the end", end)]
    say()
    say(f"== where the memory of redis-server is, after {show.seconds():.0f} s and {workload.commands:,} commands ==")
    for block in (account.resident(end), account.before_and_after(moments), account.peak(end),
                  account.findings(moments), account.refills(end),
                  account.superslab_refill(end, show.seconds()), account.wasteful_classes(end), account.purging(end)):
        say()
        for line in block:
            say(line)
    peak = prometheus.query('max_over_time(hakmem_process_resident_bytes{job="hakmem"}[1h])')
    scrapes = prometheus.query('count_over_time(up{job="hakmem"}[1h])')
    if not peak or not scrapes:
        raise DemoError(f"prometheus has no samples of {redis.metrics_url}")
    say(f"Prometheus scraped {scrapes[0][1]:.0f} times and saw a peak of {account.bytes_text(peak[0][1])} resident")


def print_places(redis, prometheus, running):
    state = "" if running else "  (stopped with the demo; --keep leaves it running)"
    say()
    say(f"  /metrics    {redis.metrics_url}{state}")
    say(f"  Prometheus  {prometheus.url}/graph?g0.expr=hakmem_resident_bytes&g0.tab=0{state}")
    say(f"  Redis       redis-cli -p {redis.port}{state}")
    say(f"  Dashboard   {os.path.relpath(DASHBOARD)}  (import it in Grafana, or use dashboards/provisioning)")


def memory_limit():
    """Bytes to fill: as much as makes a point, and no more than a sixth of what the machine has free."""
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return min(384 * MIB, available // 6)


def demonstrate(options, folder, processes):
    check_installed(options.library)
    if options.keep:
        say("Ctrl-C ends it.")
    say("Starting redis-server and Prometheus; the first scrape takes some seconds.")
    redis = Redis(processes, folder, options.library)
    prometheus = Prometheus(processes, folder, redis.metrics_port)
    say(f"redis-server on hakmem serves {redis.metrics_url}, Prometheus runs at {prometheus.url}")
    with redis.connect() as client:
        workload = Workload(client)
        show = Show(redis, processes)
        moments = run_phases(show, redis, workload, options.seconds, memory_limit())
        print_account(show, redis, prometheus, workload, moments)
        print_places(redis, prometheus, running=options.keep)
        if options.keep:
            say()
            say("A light load goes on. Ctrl-C stops everything.")
            for _ in workload.steady():
                processes.check()
                time.sleep(0.1)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__.splitlines()[0])
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, metavar="SECONDS",
                        help="how long the load runs (default: 60, at least 5)")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--library", default=LIBRARY, metavar="PATH",
                        help="telemetry library to preload (default: the one of build/telemetry)")
    options = parser.parse_args()
    if not 5 <= options.seconds <= 86400:
        parser.error("--for takes a number of seconds from 5 to 86400")
    return options


def stop(number, _):
    """The first signal ends the demo; a second one must not leave half of its processes behind."""
    ignore_signals()
    raise Stopped(number)


def ignore_signals():
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main():
    options = parse_arguments()
    for number in ENDING_SIGNALS:
        signal.signal(number, stop)
    status = 0
    with tempfile.TemporaryDirectory(prefix="hakmem-demo-") as folder:
        processes = Processes(folder)
        try:
            demonstrate(options, folder, processes)
        except Stopped as stopped:
            status = 0 if options.keep and stopped.number == signal.SIGINT else 128 + stopped.number
        except (DemoError, OSError) as error:
            ignore_signals()
            status = 1
            print(f"demo: {processes.cause_of(error)}", file=sys.stderr)
        finally:
            ignore_signals()
            processes.stop_all()
    if status > 128 or options.keep and status == 0:
        try:
            say("Stopped; nothing is left running.")
        except Stopped:
            pass
    return status


if __name__ == "__main__":
    sys.exit(main())
