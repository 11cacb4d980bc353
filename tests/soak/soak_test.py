"""A soak: real programs under the telemetry library, for as long as asked, with kills, forks, purges and scrapes.

    soak_test.py LIBRARY SERVER [--minutes N] [--load CORES] [--seed N] [--leak BYTES]

SERVER is the threaded server of tests/preload. A round does everything below once, in random order:

- redis-benchmark on Redis, killed in the middle now and then; a snapshot, its process killed now and then
- a second Redis is killed in the middle of a load, and finds its data again
- clients of a server with a pool of threads, and of one that starts a thread a connection
- a Python program runs its work in processes and threads, kills one of the processes, and trims its heap
- shells and Perl that live for a moment, some of them killed
- a scrape of every endpoint and of the machine's exporter

and then measures the programs that live as long as the soak, while they rest. At the end everything still
answered rightly, no counter fell, no page was lost, no process printed a line of hakmem's, and neither resident
memory nor hakmem's own memory has grown (flatness.py). --leak makes the Python program leak in each round: the soak
must fail then.
"""

import argparse
import collections
import contextlib
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from flatness import Flatness
from programs import HERE, KIB, MIB, PATIENCE, Redis, Watched, check, compare_counters, cpu_of, exporter_harness, fetch

# programs.py has shown where these are.
import endpoint
import harness
import server_test

# By how much each may grow in the time that is judged: bytes, or a share of the level. "in use" is all that is
# resident but for what the allocator holds back, which follows the load; the other parts are shown and not judged.
ALLOWED = {"resident": (2 * MIB, 0.03), "in use": (2 * MIB, 0.03), "metadata": (256 * KIB, 0.05), "telemetry": (256 * KIB, 0.05)}

FEWEST_ROUNDS = 12  # however slow the machine is


def is_hakmems(line):
    return "hakmem" in line.lower() or "ld.so" in line


class Soak:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.counts = collections.Counter()
        self.looks = collections.defaultdict(list)  # (process, part): [(second, bytes)]
        self.logs = contextlib.ExitStack()
        self.living = []
        self.last_of_machine = None
        self.began = time.monotonic()

    # -- processes ---------------------------------------------------------------------------------------------------------

    def folder(self, name):
        path = pathlib.Path(self.scratch, name)
        path.mkdir()
        return str(path)

    def listening(self):
        return {"HAKMEM_LISTEN": f"127.0.0.1:{harness.free_port()}"}

    def popen(self, command, **arguments):
        """A preloaded process; what it prints goes to `arguments`, or nowhere."""
        variables = arguments.pop("variables", {})
        for stream in ("stdin", "stdout", "stderr"):
            arguments.setdefault(stream, subprocess.DEVNULL)
        return subprocess.Popen(command, env=harness.environment(True, HAKMEM_PAGES=self.pages, **variables), **arguments)

    def start(self, name, command, **variables):
        """A process that stays; its output is read at the end."""
        output = self.logs.enter_context(tempfile.TemporaryFile())
        process = self.popen(command, variables=variables, stdin=subprocess.PIPE, stdout=output, stderr=output)
        process.name, process.output = name, output
        process.port = int(variables.get("HAKMEM_LISTEN", ":0").partition(":")[2])
        self.living = [other for other in self.living if other.poll() is None] + [process]
        return process

    def text_of(self, process):
        return os.pread(process.output.fileno(), 64 * MIB, 0).decode(errors="replace")

    def check_log(self, process):
        bad = [line for line in self.text_of(process).splitlines() if is_hakmems(line)]
        check(not bad, f"{process.name}: {bad[:5]}")

    def run_for_a_moment(self, command, kill):
        with tempfile.TemporaryFile() as errors:
            process = self.popen(command, stderr=errors)
            if kill:
                time.sleep(self.random.uniform(0, 0.3))
                process.kill()
                self.counts["programs killed"] += 1
            status = process.wait(PATIENCE)
            said = os.pread(errors.fileno(), MIB, 0).decode(errors="replace")
            check(status in ((0, -signal.SIGKILL) if kill else (0,)) and not said, f"{command}: {status} {said}")
        self.counts["programs run"] += 1

    def start_server(self, mode, **variables):
        process = self.start(f"server {mode}", [self.options.server, mode], **variables)
        process.listens = int(harness.wait_until(lambda: self.text_of(process).partition("\n")[0], PATIENCE, "the server listens"))
        return process

    def ask_family(self, *words):
        self.family.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.family.stdin.flush()
        self.answers += 1
        lines = harness.wait_until(lambda: (read := self.text_of(self.family).splitlines())[self.answers - 1:] and read, PATIENCE,
                                   "python answers")
        return lines[self.answers - 1]

    def set_up(self):
        self.redis = Redis(self, "redis", watched=True)
        self.victim = Redis(self, "redis that is killed", watched=False)
        self.pool = self.start_server("pool", **self.listening())
        self.threads = self.start_server("thread")
        self.answers = 0
        self.family = self.start("python", ["/usr/bin/python3", str(HERE / "family.py")], PYTHONMALLOC="malloc",
                                 **self.listening())
        self.ask_family("work", 1, "fork", 0)
        self.watched = [Watched(process.name, process, process.port)
                        for process in (self.redis.process, self.pool, self.family)]
        for one in self.watched:
            harness.wait_until(lambda: endpoint.answers(one.port), PATIENCE, f"the endpoint of {one.name}")
        # The caches of the pool's threads fill with what each happens to get, which takes them so long; Redis has to have
        # had the largest of its loads.
        for _ in range(100):
            self.load_server(self.pool)
        for _ in range(12):
            self.redis.benchmark(False)

    # -- what a round does -------------------------------------------------------------------------------------------------

    def chance(self, share):
        return self.random.random() < share

    def load_server(self, process):
        clients = [server_test.Client(process.listens, number, self.random.randrange(1 << 20)) for number in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
            check(client.failure is None, f"{process.name}: {client.failure!r}")
            self.counts["requests answered"] += client.requests

    def family_works(self):
        kill = self.chance(0.5)
        answer = self.ask_family("work", self.random.randrange(1 << 30), "spawn" if self.chance(0.1) else "fork", int(kill))
        if not answer.startswith("right"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.family.wait(5)  # it may still be printing why
            check(False, self.text_of(self.family)[-4000:])
        self.counts["processes of multiprocessing"] += 3
        self.counts["of them killed"] += int(answer.split()[1])
        if self.chance(0.3):
            check(self.ask_family("trim").startswith("trimmed"), "malloc_trim")
            self.counts["heaps trimmed"] += 1
        if self.options.leak:
            self.ask_family("leak", self.options.leak)

    def short_lives(self):
        shell = "for i in 1 2 3 4 5 6 7 8; do x=$(echo {1..300} | wc -c); [ \"$x\" = 1092 ] || exit 1; done"
        perl = "my %t; $t{$_ % 7000} .= 'x' x ($_ % 50) for 1..20000; exit(keys %t != 7000)"
        self.run_for_a_moment(["/bin/bash", "-c", shell], self.chance(0.2))
        self.run_for_a_moment([harness.program("perl"), "-e", perl], self.chance(0.2))

    def restart_server(self):
        if self.chance(0.5):
            self.threads.kill()
            self.threads.wait()
            self.counts["servers killed"] += 1
            self.check_log(self.threads)
            self.threads = self.start_server("thread")
        self.load_server(self.threads)

    def kill_redis(self):
        if self.chance(0.3):
            self.victim.die_and_come_back()
            self.counts["servers killed"] += 1

    def scrape_machine(self):
        now = exporter_harness.Scrape(fetch(self.exporter_port))
        compare_counters(self.last_of_machine, now, "the machine's exporter")
        self.last_of_machine = now
        self.counts["scrapes"] += 1
        return now

    def scrape_all(self):
        for one in self.watched:
            one.scrape()
        self.counts["scrapes"] += len(self.watched)
        self.scrape_machine()

    def saves(self):
        self.redis.save(self.chance(0.4))
        self.counts["snapshots"] += 1

    # -- pace and measurement ----------------------------------------------------------------------------------------------

    def cpu_seconds(self):
        return sum(os.times()[:4]) + sum(cpu_of(process.pid) for process in self.living if process.poll() is None)

    def pace(self, action):
        """Runs a step and rests until its CPU time is the share asked for of its wall time."""
        wall, cpu = time.monotonic(), self.cpu_seconds()
        action()
        rest = (self.cpu_seconds() - cpu) / self.options.load - (time.monotonic() - wall)
        if rest > 0:
            time.sleep(rest)

    def look(self):
        """Measures what has to stay flat, while nothing else runs."""
        second = time.monotonic() - self.began
        for one in self.watched:
            check(one.process.poll() is None, f"{one.name} has ended")
            scrape = one.scrape()
            # What has a label pid is a child's.
            own = {key: value for key, value in scrape.values.items() if "pid" not in dict(key[1])}
            parts = {dict(labels)["part"]: value for (family, labels), value in own.items() if family == "hakmem_resident_bytes"}
            resident = own["hakmem_process_resident_bytes", frozenset()]
            unexplained = own["hakmem_resident_unexplained_bytes", frozenset()]
            check(abs(unexplained) <= max(0.02 * resident, MIB), f"{one.name}: {unexplained} of {resident} bytes are unexplained")
            parts |= {"resident": resident, "in use": resident - parts.get("retained", 0)}
            for part, value in parts.items():
                self.looks[one.name, part].append((second, value))
        machine = self.scrape_machine()
        shown = {dict(labels).get("pid") for _, labels in machine.values}
        lost = [one.name for one in self.watched if str(one.process.pid) not in shown]
        check(not lost, f"the machine's exporter does not show {lost}")
        check(machine.value("hakmem_exporter_pages_skipped_total") == 0, "pages were skipped")
        self.looks["exporter", "resident"].append((second, machine.value("hakmem_exporter_memory_bytes")))

    def round(self):
        steps = [lambda: self.redis.benchmark(self.chance(0.3)), self.saves, lambda: self.load_server(self.pool), self.restart_server,
                 self.kill_redis, self.family_works, self.short_lives, self.scrape_all]
        self.random.shuffle(steps)
        for step in steps:
            self.pace(step)
        self.redis.check_canaries()
        self.pace(self.look)
        self.counts["rounds"] += 1

    # -- all of it ---------------------------------------------------------------------------------------------------------

    def run(self):
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hakmem-soak-") as scratch, self.logs:
            self.scratch = scratch
            self.pages = self.folder("pages")
            with endpoint.host_exporter(self.pages) as self.exporter_port:
                try:
                    self.set_up()
                    end = self.began + 60 * self.options.minutes
                    while time.monotonic() < end or self.counts["rounds"] < FEWEST_ROUNDS:
                        self.round()
                        self.report_round()
                    self.finish()
                finally:
                    sys.stdout.flush()
                    for process in self.living:
                        if process.poll() is None:
                            process.kill()
                            process.wait()

    def finish(self):
        self.report_work()
        purges = self.scrape_machine().value("hakmem_purge_runs_total")
        check(purges > 0, "nothing was purged")
        print(f"{purges:8.0f} runs of purging")
        self.stop_everything()
        flat = self.report_flatness()
        check(flat, "memory has grown")

    def stop_everything(self):
        """All end by themselves, quietly, and what they counted is kept."""
        self.redis.check_canaries()
        self.victim.check_canaries()
        for redis in (self.redis, self.victim):
            redis.command("SHUTDOWN", "NOSAVE")
        for process in (self.pool, self.threads):
            process.terminate()
        self.family.stdin.close()
        for process in (self.redis.process, self.victim.process, self.pool, self.threads, self.family):
            check(process.wait(PATIENCE) == 0, f"{process.name} ended with {process.returncode}")
            self.check_log(process)
        # A helper of multiprocessing ends when its parent has ended.
        harness.wait_until(lambda: self.scrape_machine().value("hakmem_exporter_pages") == 0, PATIENCE, "all pages are gone")
        files = os.listdir(self.pages)
        check(len(files) <= 16, f"{len(files)} files are left; the newest 16 of killed processes are kept")

    def report_round(self):
        kib = ", ".join(f"{name} {part} {looks[-1][1] / KIB:.0f}" for (name, part), looks in self.looks.items())
        print(f"{(time.monotonic() - self.began) / 60:.1f} min, round {self.counts['rounds']}: {kib} KiB", flush=True)

    def report_work(self):
        elapsed = time.monotonic() - self.began
        print(f"{elapsed / 60:8.1f} minutes, {self.cpu_seconds():.0f} s of CPU ({100 * self.cpu_seconds() / elapsed:.1f} % of a core)")
        for what, count in self.counts.items():
            print(f"{count:8} {what}")

    def report_flatness(self):
        flat = bool(self.looks)
        for (name, part), looks in self.looks.items():
            judged = Flatness(looks, *ALLOWED.get(part, (math.inf, 0)))
            flat = flat and judged.is_flat()
            print(f"{name:12} {part:22} {judged}{'' if judged.is_flat() else ': NOT FLAT'}")
        return flat


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=os.path.abspath)
    parser.add_argument("server", type=os.path.abspath)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--load", type=float, default=0.25, help="of a core; the rest of the time it sleeps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leak", type=int, default=0, help="bytes a round, to see that it fails")
    options = parser.parse_args()
    harness.LIBRARY = options.library
    server_test.Client.timeout = PATIENCE
    os.nice(19)
    Soak(options).run()
    print("soak: passed")


if __name__ == "__main__":
    main()
