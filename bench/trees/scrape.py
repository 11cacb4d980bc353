#!/usr/bin/env python3
"""How long scrapes take: hakmem-exporter over many processes, and the endpoint of one with many threads and slabs.

    bench/trees/scrape.py machine [--processes 500] [--scrapes 50]
    bench/trees/scrape.py endpoint [--threads 1000] [--gibibytes 10] [--scrapes 200]
    bench/trees/scrape.py account [--gibibytes 10] [--rounds 5]
    bench/trees/scrape.py children [--children 10000] [--rounds 5]

Every process is real and runs under build/telemetry/libhakmem-telemetry.so (./run
build release telemetry builds what is needed). The first prints the time of a
scrape of /metrics seen by the client, its series, and the exporter's memory; the
second the same of one process; the third the most that no part of the account explains
while a process grows to so many GiB and becomes full of holes; the last what the preload
costs a shell for each child, by whole shells in turn with and without.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from endpoint import free_port, scrape  # noqa: E402

BUILD = ROOT / "build" / "telemetry"
LIBRARY = BUILD / "libhakmem-telemetry.so"
WIDE_PROCESS = ROOT / "build" / "release" / "bench" / "bench_wide_process"


def environment(**variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HAKMEM_", "LD_"))}
    return clean | variables


def preloaded(**variables):
    return environment(LD_PRELOAD=str(LIBRARY), **variables)


def wait_for(port):
    for _ in range(600):
        try:
            return scrape(port)
        except OSError:
            time.sleep(0.1)
    sys.exit("no endpoint")


def measure(port, scrapes):
    """Times of so many scrapes in milliseconds, sorted, and the last text."""
    times = []
    for _ in range(scrapes):
        start = time.perf_counter()
        text = scrape(port)
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times), text


def print_times(what, times, text):
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    print(f"{what}: {len(times)} scrapes, median {statistics.median(times):.1f} ms, p99 {p99:.1f} ms, "
          f"longest {times[-1]:.1f} ms; {series} series, {len(text) / 1e3:.0f} kB")


def resident_mib(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def machine(options):
    """`processes` real ones, each with a page of its own that was published."""
    work = ("import sys, time; kept = [bytes(600 + i % 800) for i in range(3000)]; time.sleep(1.1); "
            "more = [bytes(700 + i % 900) for i in range(3000)]; print(flush=True); sys.stdin.read()")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
        port = free_port()
        exporter = subprocess.Popen([BUILD / "hakmem-exporter", "--listen", f"127.0.0.1:{port}", "--pages", pages,
                                     "--young", "0"], env=environment(), stderr=subprocess.DEVNULL)
        programs = []
        try:
            wait_for(port)
            for _ in range(options.processes):
                programs.append(subprocess.Popen(["/usr/bin/python3", "-c", work], env=preloaded(HAKMEM_PAGES=pages),
                                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for program in programs:
                program.stdout.readline()
            start = time.perf_counter()
            scrape(port)
            print(f"first scrape: {(time.perf_counter() - start) * 1e3:.1f} ms")
            times, text = measure(port, options.scrapes)
            shown = re.search(r"^hakmem_exporter_pages (\S+)$", text, re.M).group(1)
            print_times(f"{shown} processes", times, text)
            print(f"hakmem-exporter: {resident_mib(exporter.pid):.1f} MiB resident")
        finally:
            for program in programs:
                program.kill()
                program.wait()
            exporter.terminate()
            exporter.wait()


# Grows to so many bytes, of blocks of 16 bytes to 256 KiB, and frees two of three of them, by chance; in the end nearly all.
HOLES = """
import random, sys
blocks, held, limit, rounds = [], 0, int(sys.argv[1]) << 30, int(sys.argv[2])
for round in range(rounds):
    while held < limit:
        blocks.append(b"x" * int(2 ** random.uniform(4, 18)))
        held += len(blocks[-1])
    for share in (1 / 3, 1 / 30)[:1 + (round + 1 == rounds)]:
        blocks = [block for block in blocks if random.random() < share]
        held = sum(map(len, blocks))
"""


def account(options):
    """One process that grows and shrinks, scraped all the while."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
        program = subprocess.Popen(["/usr/bin/python3", "-c", HOLES, str(options.gibibytes), str(options.rounds)],
                                   env=preloaded(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PAGES=pages, PYTHONMALLOC="malloc"))
        looks = []
        try:
            wait_for(port)
            while program.poll() is None:
                text = scrape(port)
                looks.append([float(re.search(rf"^hakmem_{name}_bytes (\S+)$", text, re.M).group(1))
                              for name in ("resident_unexplained", "process_resident")])
        except OSError:
            pass  # it has ended
        finally:
            program.kill()
            program.wait()
    worst, resident = max(looks, key=lambda look: abs(look[0]))
    beyond = sum(abs(unexplained) > max(1 << 20, resident / 50) for unexplained, resident in looks)
    print(f"{len(looks)} scrapes, at most {max(resident for _, resident in looks) / (1 << 30):.1f} GiB resident; the most that is "
          f"unexplained: {worst / 1024:.0f} KiB of {resident / (1 << 20):.0f} MiB; beyond 2 % and 1 MiB: {beyond}")


def endpoint(options):
    """One process: threads that hold blocks of many classes, and slabs of which one page each is touched."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
        program = subprocess.Popen([WIDE_PROCESS, str(options.threads), str(options.gibibytes)],
                                   env=preloaded(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PAGES=pages),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            print(program.stdout.readline().decode().strip())
            wait_for(port)
            times, text = measure(port, options.scrapes)
            print_times(f"{options.threads} threads, {options.gibibytes} GiB of slabs", times, text)
            print(f"process: {resident_mib(program.pid):.0f} MiB resident")
        finally:
            program.kill()
            program.wait()


def children(options):
    script = f"i=0; while [ $i -lt {options.children} ]; do /bin/true; i=$((i + 1)); done"
    seconds = {False: [], True: []}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as pages:
        for _ in range(options.rounds):
            for preload in seconds:
                start = time.perf_counter()
                subprocess.run(["/bin/sh", "-c", script], check=True,
                               env=preloaded(HAKMEM_PAGES=pages) if preload else environment())
                seconds[preload].append(time.perf_counter() - start)
        left = os.listdir(pages)
    costs = sorted((with_it - without) / options.children * 1e3 for without, with_it in zip(*seconds.values()))
    print(f"{options.children} children, {options.rounds} pairs: {statistics.median(costs):.3f} ms a child more "
          f"({costs[0]:.3f} to {costs[-1]:.3f}); without {min(seconds[False]) / options.children * 1e3:.3f} ms; "
          f"{len(left)} files left")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["machine", "endpoint", "account", "children"])
    parser.add_argument("--processes", type=int, default=500)
    parser.add_argument("--scrapes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1000)
    parser.add_argument("--gibibytes", type=int, default=10)
    parser.add_argument("--children", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    {"machine": machine, "endpoint": endpoint, "account": account, "children": children}[options.what](options)


if __name__ == "__main__":
    main()
