"""PostgreSQL under the preload: the answers of a plain server, sound files, orderly ends, and its processes by pid."""

import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import endpoint
import harness

WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "postgres_workload.sql")
CLIENTS = 6
TRANSACTIONS = 60
# What no log may contain; a fast shutdown ends whoever is still connected by a line of its own.
BAD = r"ERROR|FATAL(?!:  terminating (autovacuum|connection))|PANIC|WARNING|terminated by signal|hakmem:|ld\.so"


def installed(name):
    """Path of a program of the newest PostgreSQL, which Debian keeps out of the PATH."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    if not found:
        raise AssertionError(f"{name} is not installed")
    return found[-1]


class PostgresTest(unittest.TestCase):
    """One cluster for all tests, made under the preload."""

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="hakmem-postgres-")
        cls.addClassCleanup(scratch.cleanup)
        cls.scratch = scratch.name
        cls.data = os.path.join(cls.scratch, "data")
        cls.pages = os.path.join(cls.scratch, "pages")
        os.mkdir(cls.pages)
        # PostgreSQL refuses to run as root, and another user may not be able to read the build's folder.
        for path in [harness.LIBRARY, *glob.glob(f"{endpoint.BUILD}/libhakmem-exporter-module.so")]:
            shutil.copy(path, cls.scratch)
        harness.LIBRARY = os.path.join(cls.scratch, os.path.basename(harness.LIBRARY))
        if os.geteuid() == 0:
            for path in (cls.scratch, cls.pages):
                shutil.chown(path, "nobody", "nogroup")
        status, _, errors = harness.run([*harness.unprivileged(), installed("initdb"), "-D", cls.data, "--no-sync",
                                         "-k", "--locale=C.UTF-8", "-U", "test", "-A", "trust"], True)
        assert (status, errors) == (0, b""), errors.decode()

    def start(self, preload=True, **variables):
        """A server on the cluster, which answers on a unix socket alone."""
        if preload and "telemetry" in harness.LIBRARY:
            variables["HAKMEM_PAGES"] = self.pages
        self.process = self.enterContext(harness.server(
            [*harness.unprivileged(), installed("postgres"), "-D", self.data, "-k", self.scratch,
             "-c", "listen_addresses=", "-c", "fsync=off"], preload, variables=variables))
        harness.wait_until(lambda: "ready to accept" in self.process.log() or self.process.poll() is not None, 20,
                           "PostgreSQL answers")
        self.assertIsNone(self.process.poll(), self.process.log())
        self.assertEqual(preload, harness.is_mapped(self.process.pid))

    def stop(self, bad=BAD):
        """A fast shutdown, clean, after which the files are sound and the log tells of nothing bad."""
        self.process.send_signal(signal.SIGINT)
        self.assertEqual(0, self.process.wait(timeout=30), self.process.log())
        log = self.process.log()
        self.assertIn("database system is shut down", log)
        self.assertEqual([], [line for line in log.splitlines() if re.search(bad, line)])
        status, output, _ = harness.run([installed("pg_checksums"), "--check", "-D", self.data], False)
        self.assertEqual(0, status, output)

    def client(self, name, *arguments):
        """A client program under the preload; what it prints."""
        status, output, errors = harness.run([installed(name), "-h", self.scratch, "-U", "test", *arguments], True)
        self.assertEqual(0, status, errors)
        self.assertNotIn(b"hakmem", errors)
        return output.decode()

    def query(self, text, database="postgres"):
        return self.client("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", text, database).strip()

    def workload(self, database):
        self.query(f"create database {database}")
        return self.client("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", WORKLOAD, database)

    def test_same_answers_as_a_plain_server(self):
        self.start()
        preloaded = self.workload("preloaded")
        self.assertIn("Workers Launched: 2", preloaded)
        self.client("pgbench", "-i", "-q", "postgres")
        report = self.client("pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS), "postgres")
        self.assertIn(f"actually processed: {CLIENTS * TRANSACTIONS}/{CLIENTS * TRANSACTIONS}\n", report)
        self.stop()
        self.start(False)
        self.assertEqual(preloaded, self.workload("plain"))
        content = "select count(*), md5(string_agg(item::text, ',' order by id)) from item"
        self.assertEqual(self.query(content, "plain"), self.query(content, "preloaded"))
        sums = self.query("select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from "
                          "pgbench_tellers), (select sum(bbalance) from pgbench_branches), sum(delta), count(*) "
                          "from pgbench_history")
        *balances, count = sums.split("|")
        self.assertEqual(1, len(set(balances)), sums)
        self.assertEqual(CLIENTS * TRANSACTIONS, int(count))
        self.stop()

    def test_a_killed_backend_is_recovered_from(self):
        """The others end in a signal handler, whatever they were doing, and the server starts over."""
        self.start()
        session = self.session()
        os.kill(session.backend, signal.SIGKILL)
        session.communicate("select 1;\n", timeout=20)
        self.assertEqual(2, session.returncode)
        harness.wait_until(lambda: self.process.log().count("ready to accept connections") == 2, 20, "recovery")
        self.assertEqual("45150", self.query("select sum(n) from generate_series(1, 300) n"))
        self.stop(bad=r"ERROR|PANIC|hakmem:|ld\.so|signal (?!9)")

    def session(self):
        """An open session; `backend` is the pid of the process that serves it."""
        session = subprocess.Popen([installed("psql"), "-h", self.scratch, "-U", "test", "-XqAt", "postgres"],
                                   env=harness.environment(True), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.addCleanup(session.stdout.close)
        session.stdin.write("select length(string_agg(md5(n::text), '')) from generate_series(1, 90000) n;\n")
        self.assertEqual("2880000", session.stdout.readline().strip())
        session.stdin.write("select pg_backend_pid();\n")
        session.backend = int(session.stdout.readline())
        return session

    def test_backends_are_shown_by_pid(self):
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        port = harness.free_port()
        # setpriv could not drop its capabilities with a thread that it does not know: HAKMEM_PROGRAM keeps it alone.
        self.start(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PROGRAM="postgres")
        exporter = self.enterContext(endpoint.host_exporter(self.pages))
        session = self.session()
        endpoint.wait_for(port)
        for shown in (port, exporter):
            held = harness.wait_until(lambda: endpoint.by_pid(shown, "hakmem_live_bytes").get(str(session.backend)), 10,
                                      "the backend's page")
            self.assertGreater(held, 1 << 20)
        self.assertGreater(endpoint.by_pid(exporter, "hakmem_live_bytes")[str(self.process.pid)], 100_000)
        # Of setpriv, in whose place the server comes, the totals stay where it was seen.
        self.assertEqual({"postgres"}, endpoint.names(exporter) - {"setpriv"})
        session.stdin.close()
        self.assertEqual(0, session.wait(timeout=20))
        for shown in (port, exporter):
            harness.wait_until(lambda: str(session.backend) not in endpoint.by_pid(shown, "hakmem_refills_total"), 10,
                               "the backend's end")
            self.assertGreater(endpoint.by_pid(shown, "hakmem_refills_total")["other"], 0)
            endpoint.lint(shown)
        self.stop()
        endpoint.scrape(exporter)
        # What ended without its exit, while the server was set up, stays for a report.
        left = {int(name.split(".")[2]) for name in os.listdir(self.pages)}
        self.assertEqual(set(), left & {self.process.pid, session.backend})

    def test_connections_that_come_and_go_leave_no_series(self):
        """All backends are young: they are one series of each family, in which no counter ever falls."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has stats pages")
        self.start()
        exporter = self.enterContext(endpoint.host_exporter(self.pages, young=60))
        counted = {}
        for _ in range(12):
            sessions = [self.session() for _ in range(3)]
            for session in sessions:
                self.check_grouped(exporter, counted)
                session.stdin.close()
            for session in sessions:
                self.assertEqual(0, session.wait(timeout=20))
            self.check_grouped(exporter, counted)
        # Each of the 36 backends refilled for more than a MiB.
        self.assertGreater(counted['hakmem_refills_total{pid="other",comm="postgres",size_class="all",source="fresh_carve"}'],
                           36)
        self.stop()

    def check_grouped(self, exporter, counted):
        """No counter of a scrape is below that of the one before; `counted` holds them from one to the next."""
        text = endpoint.scrape(exporter)
        self.assertEqual({"other"}, set(re.findall(r'\bpid="(\w+)"', text)))
        names = "|".join(re.findall(r"^# TYPE (\w+) counter$", text, re.MULTILINE))
        now = {series: float(value) for series, value in re.findall(rf"^((?:{names})\S*) (\S+)$", text, re.MULTILINE)}
        for series, value in counted.items():
            self.assertGreaterEqual(now.get(series, -1), value, series)
        counted.update(now)

    def test_the_account_of_resident_memory_adds_up(self):
        """Of the server, while backends come and go, and of those whose mappings take no longer than a millisecond."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        port = harness.free_port()
        self.start(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PROGRAM="postgres")
        endpoint.wait_for(port)
        with endpoint.account_adds_up(self, port, 1):
            self.client("pgbench", "-i", "-q", "postgres")
            self.client("pgbench", "-n", "-c", "4", "-j", "2", "-T", "3", "postgres")
        self.stop()

    def test_the_account_of_a_backend_that_sorts_adds_up(self):
        """Of one alone, which measures itself at each scrape."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        port = harness.free_port()
        variables = {"HAKMEM_LISTEN": f"127.0.0.1:{port}", "HAKMEM_PROGRAM": "postgres", "HAKMEM_PAGES": self.pages}
        command = [*harness.unprivileged(), installed("postgres"), "--single", "-D", self.data, "-c", "fsync=off", "postgres"]
        with subprocess.Popen(command, env=harness.environment(True, **variables), stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as backend:
            self.addCleanup(lambda: backend.poll() is None and backend.kill())
            endpoint.wait_for(port)
            with endpoint.account_adds_up(self, port, 10 << 20) as watch:
                backend.stdin.write("set work_mem='200MB'\n")
                for _ in range(4):  # it takes memory for each, and gives it back
                    backend.stdin.write("select count(distinct md5(n::text)) from generate_series(1, 300000) n\n")
                backend.stdin.flush()
                harness.wait_until(lambda: max(watch.swings().values(), default=0) > 10 << 20, 60, "a query that ended")
            errors = backend.communicate(timeout=60)[1]
        self.assertEqual(0, backend.returncode, errors)
        self.assertEqual([], [line for line in errors.splitlines() if re.search(BAD, line)])


if __name__ == "__main__":
    harness.main()
