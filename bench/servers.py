"""Servers as benchmarks: the server runs preloaded, its client does not, and the client's work is timed.

CPU time, page faults and memory are the server's over its whole life, start
and end included, and the sum over its processes where it has several.
"""

import hashlib
import inspect
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Callable

from allocators import Allocator
from errors import BenchError
from foreign import ENVIRONMENT, SCRIPTS, malloc_provider, package_version, script_digest
from inputs import prepared
from runner import TIMEOUT_SECONDS, Job, Outcome, measure, usage_curve, usage_sample

START_SECONDS = 60

# PostgreSQL refuses to run as root. The signal is to come although the user changes.
UNPRIVILEGED = ("/usr/bin/setpriv", "--pdeathsig=KILL", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def wait_until(condition: Callable[[], bool], server: Future, what: str) -> None:
    """Returns when the condition holds; raises BenchError when the server ended or time is up."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if server.done():
            server.result()
            raise BenchError(f"{what}: the server has ended")
        if time.monotonic() > deadline:
            raise BenchError(f"{what} after {START_SECONDS} s")
        time.sleep(0.02)


def run_client(*command: str | Path) -> str:
    """Standard output of a program that must succeed."""
    try:
        result = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]}: not finished after {TIMEOUT_SECONDS} s") from None
    if result.returncode != 0:
        raise BenchError(f"{command[0]}: exit status {result.returncode}: {(result.stderr or result.stdout).strip()}")
    return result.stdout


class Server:
    """A server that stands in for a Job: each run has a server of its own in a scratch folder."""

    name: str
    description: str
    package: str
    end_signal: signal.Signals
    scripts: tuple[str, ...] = ()

    def program(self) -> str:
        """Path of the server's executable."""
        raise NotImplementedError

    def set_up(self, folder: Path) -> None:
        """Fills the scratch folder."""

    def command(self, folder: Path) -> list[str]:
        """Runs the server in the foreground; it listens on a unix socket in the folder only."""
        raise NotImplementedError

    def pid_file(self, folder: Path) -> Path:
        raise NotImplementedError

    def is_ready(self, folder: Path) -> bool:
        raise NotImplementedError

    def work(self, folder: Path) -> None:
        """What is timed."""
        raise NotImplementedError

    def checksum(self, folder: Path) -> str | None:
        """Of what the server holds after the work."""
        return None

    def pid(self, folder: Path) -> int | None:
        try:
            return int(self.pid_file(folder).read_text(encoding="utf-8").split()[0])
        except (OSError, IndexError):
            return None

    def missing(self) -> str | None:
        return None if os.access(self.program(), os.X_OK) else self.program()

    def arguments(self) -> list[str]:
        """As that of foreign.Program."""
        work = hashlib.sha256(inspect.getsource(type(self)).encode()).hexdigest()[:12]
        return [work, *map(script_digest, self.scripts), package_version(self.package)]

    def run(self, build_dir: Path, allocator: Allocator) -> Outcome:
        """As that of runner.Job."""
        with tempfile.TemporaryDirectory(prefix="bench-") as name, ThreadPoolExecutor() as pool:
            folder = Path(name)
            self.set_up(folder)
            prefix = []
            if allocator.library is None:
                # A server may be linked with another allocator, as Debian's Redis is.
                prefix = ["/usr/bin/env", "LD_PRELOAD=libc.so.6"]
            else:
                # A server under another user cannot always read the build's folder.
                allocator = replace(allocator, library=shutil.copy(allocator.library, folder))
            provider = malloc_provider((*prefix, self.program(), "--version"), allocator.library)

            def parse(_stdout: str, usage: dict) -> Outcome:
                return Outcome(provider, {self.name: usage_sample(usage)}, None, usage_curve(usage))

            job = Job(self.name, [*prefix, *self.command(folder)], parse)
            server = pool.submit(measure, build_dir, allocator, job)
            try:
                seconds, checksum = self.serve(server, folder, provider)
            finally:
                pid = self.pid(folder)
                if pid and not server.done():
                    os.kill(pid, self.end_signal)
            outcome = server.result()
            sample = outcome.samples[self.name] | {"time_seconds": seconds}
            return replace(outcome, samples={self.name: sample}, checksum=checksum)

    def serve(self, server: Future, folder: Path, provider: str) -> tuple[float, str | None]:
        """Wall time of the client's work, and the checksum after it."""
        wait_until(lambda: self.pid(folder) and self.is_ready(folder), server, f"{self.name} does not answer")
        if str(Path(provider).resolve()) not in Path(f"/proc/{self.pid(folder)}/maps").read_text(encoding="utf-8"):
            raise BenchError(f"{self.name}: {provider} is not mapped into the running server")
        start = time.monotonic()
        try:
            self.work(folder)
            seconds = time.monotonic() - start
            return seconds, self.checksum(folder)
        except BenchError:
            # The end of the server says more than what its client makes of it.
            time.sleep(1)
            if server.done():
                server.result()
            raise


class Redis(Server):
    """Most of Redis's commands by redis-benchmark, with values that change in size: that is what fragments a cache."""

    name = "redis"
    description = "Redis under redis-benchmark, twelve commands with values of 100, 1,000 and 300 bytes"
    package = "redis-server"
    end_signal = signal.SIGTERM

    def program(self) -> str:
        return "/usr/bin/redis-server"

    def command(self, folder: Path) -> list[str]:
        files = ["--dir", str(folder), "--unixsocket", f"{folder}/socket", "--pidfile", f"{folder}/pid"]
        return [self.program(), "--port", "0", "--save", "", *files]

    def pid_file(self, folder: Path) -> Path:
        return folder / "pid"

    def is_ready(self, folder: Path) -> bool:
        return (folder / "socket").exists()

    def work(self, folder: Path) -> None:
        commands = "set,get,incr,lpush,rpush,lpop,sadd,hset,spop,zadd,zpopmin,mset"
        for size in (100, 1000, 300):
            run_client(
                *("/usr/bin/redis-benchmark", "-s", f"{folder}/socket", "-q", "-t", commands, "-d", str(size)),
                *("-n", "20000", "-r", "20000", "-P", "16", "-c", "20"),
            )



def newest_postgresql() -> Path:
    """Folder of the programs of the newest PostgreSQL, which Debian keeps out of the PATH."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    return max(folders, key=lambda folder: int(folder.parent.name), default=Path("/usr/lib/postgresql/15/bin"))


def unprivileged() -> tuple[str, ...]:
    return UNPRIVILEGED if os.geteuid() == 0 else ()


def give_away(folder: Path) -> None:
    """Makes the folder the unprivileged user's."""
    if os.geteuid() == 0:
        run_client("/bin/chown", "-R", "nobody:nogroup", folder)


def postgresql_cluster(folder: Path) -> None:
    """data: a cluster with the tables of pgbench."""
    programs = newest_postgresql()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        give_away(scratch)
        data = scratch / "data"
        run_client(
            *(*unprivileged(), programs / "initdb", "-D", data, "--no-sync", "--locale=C", "--encoding=UTF8"),
            *("-A", "trust", "-U", "postgres"),
        )
        control = (*unprivileged(), programs / "pg_ctl", "-D", data, "-l", scratch / "log", "-w")
        run_client(*control, "-o", f"-k {scratch} -c listen_addresses= -c fsync=off", "start")
        try:
            run_client(programs / "pgbench", "-h", scratch, "-U", "postgres", "-i", "-q", "postgres")
        finally:
            run_client(*control, "-m", "fast", "stop")
        shutil.copytree(data, folder / "data")


class PostgreSQL(Server):
    """Small writes and reports with sorting, grouping and text by pgbench, in four sessions."""

    name = "postgresql"
    description = "PostgreSQL under pgbench, four sessions that update, report, sort and group"
    package = "postgresql"
    end_signal = signal.SIGINT  # ends the sessions, too
    scripts = ("report.sql",)

    def program(self) -> str:
        return str(newest_postgresql() / "postgres")

    def set_up(self, folder: Path) -> None:
        shutil.copytree(prepared(postgresql_cluster, self.program()) / "data", folder / "data")
        give_away(folder)

    def command(self, folder: Path) -> list[str]:
        settings = "fsync=off synchronous_commit=off autovacuum=off jit=off shared_buffers=16MB listen_addresses="
        options = [word for setting in settings.split() for word in ("-c", setting)]
        return [*unprivileged(), self.program(), "-D", f"{folder}/data", "-k", str(folder), *options]

    def pid_file(self, folder: Path) -> Path:
        return folder / "data" / "postmaster.pid"

    def is_ready(self, folder: Path) -> bool:
        command = (newest_postgresql() / "pg_isready", "-h", folder, "-q")
        return subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0

    def work(self, folder: Path) -> None:
        run_client(
            *(newest_postgresql() / "pgbench", "-h", folder, "-U", "postgres", "-n", "-c", "4", "-j", "1", "-t", "60"),
            *("--random-seed=1", "-f", SCRIPTS / "report.sql", "postgres"),
        )

    def checksum(self, folder: Path) -> str | None:
        accounts, history = "SELECT sum(abalance * aid) FROM pgbench_accounts", "SELECT count(*) FROM pgbench_history"
        psql = (newest_postgresql() / "psql", "-h", folder, "-U", "postgres", "-At")
        return run_client(*psql, "-c", accounts, "-c", history, "postgres")
