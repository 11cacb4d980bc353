"""The two servers of the demo: Redis on hakmem, and Prometheus that scrapes it."""

import json
import os
import shutil
import urllib.parse

import exposition
import resp
from processes import DemoError, free_port, http_get

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBRARY = os.path.join(ROOT, "build", "telemetry", "libhakmem-telemetry.so")
RULES = os.path.join(ROOT, "dashboards", "rules", "hakmem.rules.yml")

METRICS_PORT = 19464
PROMETHEUS_PORT = 9090
REDIS_PORT = 6379


def require(program, package):
    """Path of a program, or one line that says how to get it."""
    found = shutil.which(program)
    if not found:
        raise DemoError(f"{program} is missing: apt-get install {package}")
    return found


def check_installed(library):
    """Raises when something that the demo needs is not there, before anything is started."""
    if not os.path.exists(library):
        raise DemoError(f"{library} is not built: ./run build telemetry")
    require("redis-server", "redis-server")
    require("prometheus", "prometheus")


class Redis:
    """A redis-server preloaded with the telemetry library, serving /metrics."""

    def __init__(self, processes, folder, library=LIBRARY, metrics_port=METRICS_PORT, port=REDIS_PORT):
        program = require("redis-server", "redis-server")
        self.metrics_port = free_port(metrics_port)
        self.port = free_port(port, taken=(self.metrics_port,))
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        self._processes = processes
        environment = {
            "LD_PRELOAD": library,
            "HAKMEM_LISTEN": f"127.0.0.1:{self.metrics_port}",
            "HAKMEM_PROGRAM": "redis-server",
        }
        self.process = processes.start("redis-server", [
            program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", folder, "--save", "",
            "--appendonly", "no", "--daemonize", "no", "--lazyfree-lazy-user-del", "yes",
        ], environment)
        processes.wait_for("redis-server", self._answers)
        # A process serves only after a second of life.
        processes.wait_for(self.metrics_url, self._serves)

    def _answers(self):
        with self.connect() as client:
            return client.command("PING") == b"+PONG"

    def _serves(self):
        return "hakmem_process_resident_bytes" in http_get(self.metrics_url)

    def connect(self):
        return resp.Client("127.0.0.1", self.port)

    def scrape(self):
        """The figures as they are now."""
        try:
            return exposition.parse(http_get(self.metrics_url))
        except OSError as error:
            self._processes.check()
            raise DemoError(f"{self.metrics_url} does not answer: {error}") from None


class Prometheus:
    """A Prometheus that scrapes one target as job "hakmem" and keeps its data in a temporary folder."""

    def __init__(self, processes, folder, target_port, port=PROMETHEUS_PORT, scrape_seconds=1):
        program = require("prometheus", "prometheus")
        self.target_port = target_port
        self.port = free_port(port, taken=(target_port,))
        self.url = f"http://127.0.0.1:{self.port}"
        config = os.path.join(folder, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                f"global:\n  scrape_interval: {scrape_seconds}s\n  evaluation_interval: {scrape_seconds}s\n"
                f"rule_files:\n  - {json.dumps(RULES)}\n"
                f"scrape_configs:\n  - job_name: hakmem\n    static_configs:\n"
                f"      - targets: ['127.0.0.1:{target_port}']\n")
        processes.start("prometheus", [
            program, f"--config.file={config}", f"--storage.tsdb.path={os.path.join(folder, 'tsdb')}",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
        ], {"GOMAXPROCS": "1"})
        processes.wait_for("prometheus", lambda: "Ready" in http_get(f"{self.url}/-/ready"))
        # Its first look at the targets comes up to 5 s after its start.
        processes.wait_for(f"a scrape of 127.0.0.1:{target_port}", lambda: self.query('up{job="hakmem"} == 1'))

    def api(self, path, **parameters):
        """The data of an answer of the HTTP API; DemoError on an error of it."""
        url = f"{self.url}/api/v1/{path}"
        if parameters:
            url += "?" + urllib.parse.urlencode(parameters)
        try:
            answer = json.loads(http_get(url, timeout=20.0))
        except OSError as error:
            body = getattr(error, "read", lambda: b"")().decode(errors="replace")
            raise DemoError(f"prometheus: {path}: {error} {body}".strip()) from None
        if answer.get("status") != "success":
            raise DemoError(f"prometheus: {path}: {answer.get('error')}")
        return answer["data"]

    def query(self, expression):
        """An instant query: a list of (labels, value)."""
        result = self.api("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]
