"""What the tests of the exporter share: programs under the telemetry library,
scrapes, and looking into them.

Every test file is called as `NAME_test.py BUILD_FOLDER [unittest arguments]`.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

BUILD = pathlib.Path()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests/preload"))
from cgroups import limited_cgroup
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


MIB = 1 << 20
UNSAMPLED = {"HAKMEM_SAMPLE_BYTES": "0"}


def main():
    global BUILD
    if len(sys.argv) < 2 or not os.path.isdir(sys.argv[1]):
        sys.exit(f"usage: {sys.argv[0]} BUILD_FOLDER [unittest arguments]")
    BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(module="__main__", verbosity=2)


def built(name):
    """Path of a program or library of the build."""
    return str(BUILD / name)


def library():
    return built("libhakmem-telemetry.so")


def workload():
    return built("tests/exporter_workload")


def environment(preload=True, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HAKMEM_", "LD_", "MALLOC_"))}
    if preload:
        clean["LD_PRELOAD"] = library()
    return clean | variables


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path="/metrics", timeout=10):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout) as answer:
        return answer.read().decode()


def is_serving(port):
    try:
        return get(port, "/healthz", 2) == "ok\n"
    except OSError:
        return False


def wait_until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Scrape:
    """The series of one scrape, checked by promtool."""

    def __init__(self, text):
        self.text = text
        self.values = {}
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = SERIES.match(line).groups()
            key = (name, frozenset(LABEL.findall(labels or "")))
            assert key not in self.values, f"this series is there twice: {line}"
            self.values[key] = float(value)

    def families(self):
        return set(re.findall(r"^# TYPE (\w+)", self.text, flags=re.M))

    def matching(self, name, **labels):
        wanted = set(labels.items())
        return {key: value for key, value in self.values.items() if key[0] == name and wanted <= key[1]}

    def value(self, name, **labels):
        """The sum of the series with these labels; there must be one."""
        found = self.matching(name, **labels)
        assert found, f"no series {name} {labels}"
        return sum(found.values())

    def lint(self):
        tool = shutil.which("promtool")
        assert tool, "promtool is not installed"
        result = subprocess.run([tool, "check", "metrics"], input=self.text, text=True, capture_output=True, timeout=60,
                                check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def counters_of(scrape):
    """Every series that must never fall."""
    counted = set(re.findall(r"^# TYPE (\w+) (?:counter|histogram)", scrape.text, flags=re.M))
    return {key: value for key, value in scrape.values.items()
            if key[0] in counted or re.sub(r"_(bucket|sum|count)$", "", key[0]) in counted}


class Program:
    """A program under the library, with an endpoint unless `listen` is false."""

    def __init__(self, *command, listen=True, pages="/dev/shm", **variables):
        self.port = free_port()
        self.pages = pages
        variables.setdefault("HAKMEM_PAGES", str(pages))
        if listen:
            variables.setdefault("HAKMEM_LISTEN", f"127.0.0.1:{self.port}")
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command or [workload()], env=environment(**variables), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1)
        self.pid = self.process.pid
        self.last = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
        for page in pathlib.Path(self.pages).glob(f"hakmem.*.{self.pid}.*"):
            page.unlink(missing_ok=True)  # an exporter of the machine may have been here

    def wait_for_endpoint(self):
        wait_until(lambda: is_serving(self.port), f"an endpoint; stderr: {self.error_text()}")
        return self

    def do(self, command):
        """One command of the workload; its answer."""
        self.process.stdin.write(command + "\n")
        answer = self.process.stdout.readline().strip()
        assert answer and answer != "unknown command", f"{command}: {answer or self.error_text()}"
        return answer

    def scrape(self, query=""):
        """A scrape in which no counter fell since the last one."""
        scrape = Scrape(get(self.port, "/metrics" + query))
        if self.last and not query:
            now = counters_of(scrape)
            for key, value in counters_of(self.last).items():
                of_ended = "pid" in dict(key[1]) and key not in now
                assert of_ended or now.get(key, -1) >= value, f"{key} fell from {value} to {now.get(key)}"
        if not query:
            self.last = scrape
        return scrape

    def error_text(self):
        self.errors.seek(0)
        return self.errors.read().decode()

    def end(self, timeout=20):
        """Closes its input and waits; its exit status."""
        self.process.stdin.close()
        return self.process.wait(timeout)

    def page(self):
        found = list(pathlib.Path(self.pages).glob(f"hakmem.*.{self.pid}.*"))
        return found[0] if found else None


class MachineExporter:
    """A running hakmem-exporter over a folder of its own; without `young` as it is by itself."""

    def __init__(self, pages, young=0):
        self.port = free_port()
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{self.port}", "--pages", pages,
                                         *([] if young is None else ["--young", str(young)])],
                                        env=environment(preload=False), stderr=self.errors)
        wait_until(lambda: is_serving(self.port), "hakmem-exporter")

    def scrape(self, query=""):
        return Scrape(get(self.port, "/metrics" + query))

    def told(self):
        """Its lines about files that it leaves out."""
        self.errors.seek(0)
        return [line for line in self.errors.read().decode().splitlines() if "left out" in line]

    def stop(self):
        self.process.terminate()
        status = self.process.wait(10)
        self.errors.close()
        return status


def status_field(pid, name, thread=None):
    path = f"/proc/{pid}/task/{thread}/status" if thread else f"/proc/{pid}/status"
    with open(path, encoding="utf-8") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(name + ":"))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines(text):
    return [line for line in text.splitlines() if line]


__all__ = [name for name in globals() if not name.startswith("_") and name != "BUILD"]
