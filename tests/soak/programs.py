"""What the soak runs and looks at: Redis with data that must not change, endpoints whose counters must not fall."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import sys
import time
import urllib.error

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "preload"))
import harness  # noqa: E402

# The exporter's tests have a module of the same name.
specification = importlib.util.spec_from_file_location("exporter_harness", HERE.parent / "exporter" / "harness.py")
exporter_harness = importlib.util.module_from_spec(specification)
specification.loader.exec_module(exporter_harness)

KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 3600  # seconds; the machine may have better things to do than this
TICK = os.sysconf("SC_CLK_TCK")
CANARIES = 2000


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def cpu_of(pid):
    """CPU seconds of a process and of its children that it has waited for."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def children_of(pid):
    with contextlib.suppress(OSError):
        return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text(encoding="ascii").split()]
    return []


class Watched:
    """A process that lives as long as the soak, and an endpoint of its own that is scraped."""

    def __init__(self, name, process, port):
        self.name, self.process, self.port = name, process, port
        self.last = None  # the newest scrape

    def scrape(self):
        """Reads the endpoint; no counter has fallen."""
        now = exporter_harness.Scrape(fetch(self.port))
        compare_counters(self.last, now, self.name)
        self.last = now
        return now


def fetch(port):
    """A scrape; one that was cut off because this slow client was too slow for the server is made again."""
    for _ in range(50):
        try:
            return exporter_harness.get(port, "/metrics", PATIENCE)
        except (ConnectionError, urllib.error.URLError, TimeoutError):
            time.sleep(1)
    raise AssertionError(f"the endpoint at {port} does not answer")


def compare_counters(before, now, where):
    """No counter fell, and none of what is not of one process is gone."""
    if before is None:
        return
    for key, value in exporter_harness.counters_of(before).items():
        gone = key not in now.values and "pid" in dict(key[1]) and dict(key[1])["pid"] != "other"
        check(gone or now.values.get(key, -1) >= value, f"{where}: {key} fell from {value} to {now.values.get(key)}")


class Redis:
    """A redis-server with canaries in its second database, which must never change."""

    def __init__(self, soak, name, watched):
        self.soak, self.name, self.port = soak, name, harness.free_port()
        self.folder = soak.folder(name)
        self.process = None
        self.start(soak.listening() if watched else {})
        self.fill()

    def start(self, variables):
        self.process = self.soak.start(
            self.name, [harness.program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                        "--dir", self.folder, "--enable-debug-command", "yes", "--daemonize", "no"], **variables)
        harness.wait_until(lambda: self.command("PING", ok=False) == "PONG" or self.process.poll() is not None, PATIENCE,
                           "redis-server answers")

    def command(self, *arguments, ok=True):
        status, output, errors = harness.run([harness.program("redis-cli"), "-p", str(self.port), *map(str, arguments)],
                                             False, timeout=PATIENCE)
        check(not ok or (status, errors) == (0, b""), f"{self.name}: {arguments}: {status} {errors}")
        return output.decode(errors="replace").rstrip("\n")

    def info(self, field):
        return next(line.partition(":")[2].strip() for line in self.command("INFO").splitlines() if line.startswith(field + ":"))

    def fill(self):
        script = "for i = 1, ARGV[1] do redis.call('SET', 'canary:' .. i, string.rep(i, i % 97 + 1)) end return 1"
        self.command("-n", 1, "EVAL", script, 0, CANARIES)
        self.digest = self.canaries()

    def canaries(self):
        return self.command("-n", 1, "EVAL", "local all = {} for i = 1, ARGV[1] do all[i] = redis.call('GET', 'canary:' .. i) "
                            "or 'gone' end return redis.sha1hex(table.concat(all, ','))", 0, CANARIES)

    def check_canaries(self):
        check(self.canaries() == self.digest, f"{self.name}: data was lost")

    def benchmark(self, kill):
        """A short load; with `kill` the program that makes it is killed at some moment."""
        program = [harness.program("redis-benchmark"), "-p", str(self.port), "-q", "-n", "3000", "-c", "20", "-r", "3000", "-d",
                   str(self.soak.random.choice((20, 300, 3000))), "-P", str(self.soak.random.choice((1, 16))),
                   "-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset"]
        self.soak.run_for_a_moment(program, kill)
        self.command("FLUSHDB")

    def save(self, kill):
        self.command("BGSAVE")
        if kill:
            time.sleep(self.soak.random.uniform(0, 0.1))
            for child in children_of(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    self.soak.counts["snapshots killed"] += 1
        harness.wait_until(lambda: self.info("rdb_bgsave_in_progress") == "0", PATIENCE, "the snapshot ends")
        check(kill or self.info("rdb_last_bgsave_status") == "ok", f"{self.name}: no snapshot")

    def die_and_come_back(self):
        self.save(False)
        load = self.soak.popen([harness.program("redis-benchmark"), "-p", str(self.port), "-q", "-n", "20000", "-r", "3000",
                                "-t", "set,lpush"])
        time.sleep(self.soak.random.uniform(0, 0.5))
        self.process.kill()
        self.process.wait()
        load.kill()  # it would try to connect for ever
        load.wait()
        self.soak.check_log(self.process)
        self.start({})
        self.check_canaries()
