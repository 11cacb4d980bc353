#!/usr/bin/env python3
"""Proves that every panel of the dashboard has data.

A real redis-server preloaded with the telemetry library is loaded for a while
and scraped every second by a real Prometheus. Then every expression of the
dashboard goes through /api/v1/query_range, as Grafana would send it: an error,
no data or a number that is not finite fails, by the name of the panel. All
exported families must pass `promtool check metrics`, and families and panels
must cover each other.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "dashboards", "demo"))

from processes import DemoError, Processes, http_get  # noqa: E402
from servers import LIBRARY, RULES, Prometheus, Redis, check_installed, require  # noqa: E402
from workload import MIB, Workload  # noqa: E402

DASHBOARD = os.path.join(ROOT, "dashboards", "generated", "hakmem-fragmentation.json")
FAMILY = re.compile(r"\bhakmem_[a-z_]+")
RATE_INTERVAL = "10s"
NO_DATA = "no data"

# Counters that this load need not move; every other one has to.
MAY_STAY_ZERO = {
    "hakmem_out_of_memory_total": "no request fails",
    "hakmem_lock_waits_total": "two threads seldom meet",
    "hakmem_lock_wait_seconds_total": "two threads seldom meet",
    "hakmem_slab_adoptions_total": "no thread of Redis ends",
    "hakmem_memory_errors_total": "Redis does nothing wrong",
    "hakmem_exporter_pages_skipped_total": "every page is readable",
    "hakmem_slab_claims_total": "depends on which slabs are exhausted",
}


# Selectors that may select nothing.
MAY_BE_ABSENT = {
    "hakmem_leak_suspect_bytes": "Redis need not have a call site that keeps growing",
    "hakmem_leak_suspect_age_seconds": "the same",
    'hakmem_cgroup_memory_bytes{job=~"$job", instance=~"$instance", kind="distance"}': "not every machine limits its cgroups",
}


class Findings:
    """What is wrong, so that one run tells all of it."""

    def __init__(self):
        self.lines = []

    def add(self, line):
        self.lines.append(line)
        print(f"FAILED: {line}", flush=True)


def load(redis, processes, seconds):
    """redis-benchmark beside a workload that fills, deletes, rewrites and drops."""
    program = require("redis-benchmark", "redis-tools")
    benchmark = [program, "-p", str(redis.port), "-P", "16", "-c", "8", "-r", "200000", "-n", "1000000000", "-q"]
    writes = processes.start("benchmark-set", [*benchmark, "-d", "300", "SET", "b:__rand_int__", "x" * 300])
    deletes = processes.start("benchmark-del", [*benchmark, "DEL", "b:__rand_int__"])
    start = time.monotonic()
    with redis.connect() as client:
        workload = Workload(client)
        rounds = 0
        while time.monotonic() - start < seconds:
            rounds += 1
            for phase in (workload.fill(96 * MIB), workload.thin_out(0.6), workload.rewrite(0.6, 0.5), workload.drop()):
                for _ in phase:
                    pass
            client.command("FLUSHDB", "ASYNC")
            workload.keys = workload.hashes = 0
        print(f"load: {rounds} rounds, {workload.commands} commands in {time.monotonic() - start:.0f} s", flush=True)
    for process in (writes, deletes):
        processes.stop(process)


def panels_of(dashboard):
    """All panels with targets, those in folded rows among them."""
    for panel in dashboard["panels"]:
        for each in [panel, *panel.get("panels", [])]:
            if each["type"] != "row":
                yield each


def variables_of(dashboard, prometheus):
    """The values of the dashboard's query variables, asked for as Grafana asks."""
    values = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
        found = prometheus.api(f"label/{label}/values", **{"match[]": resolve(selector, values)})
        if not found:
            raise DemoError(f"variable ${variable['name']}: {variable['definition']} has no values")
        values[variable["name"]] = "|".join(re.escape(value).replace("\\", "\\\\") for value in found)
    return values


def resolve(expression, variables):
    """The expression with Grafana's and the dashboard's variables filled in."""
    text = expression.replace("$__rate_interval", RATE_INTERVAL)
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    if "$" in text:
        raise DemoError(f"a variable is left in: {text}")
    return text


def check_target(prometheus, expression, start, end):
    """What is wrong with one expression's answer, or None."""
    try:
        series = prometheus.api("query_range", query=expression, start=start, end=end, step=1)["result"]
    except DemoError as error:
        return str(error)
    values = [float(value) for one in series for _, value in one["values"]]
    if not values:
        return f"{NO_DATA}: {expression}"
    strange = [value for value in values if not math.isfinite(value)]
    if strange:
        return f"{len(strange)} of {len(values)} values are not finite ({strange[0]}): {expression}"
    return None


def check_panels(prometheus, dashboard, start, end, findings):
    for variables in (variables_of(dashboard, prometheus), {"job": ".+", "instance": ".+"}):
        checked = 0
        for panel in panels_of(dashboard):
            for target in panel["targets"]:
                problem = check_target(prometheus, resolve(target["expr"], variables), start, end)
                if problem and problem.startswith(NO_DATA) and any(each in target["expr"] for each in MAY_BE_ABSENT):
                    continue
                checked += 1
                if problem:
                    findings.add(f"panel \"{panel['title']}\", query {target['refId']}: {problem}")
        print(f"panels: {checked} expressions asked with {variables}", flush=True)


def check_the_check(prometheus, start, end, findings):
    """A query without data, one that is not finite and one that is not PromQL must be found."""
    for broken in ('sum(hakmem_no_such_family{job=~".+"})', 'sum(hakmem_threads{job=~".+"}) / 0',
                   'sum(hakmem_threads{job=~".+"'):
        if check_target(prometheus, broken, start, end) is None:
            findings.add(f"this test would not notice: {broken}")


def check_coverage(dashboard, exported, findings):
    """Every exported family is on a panel or in a rule, and the other way round."""
    text = " ".join(target["expr"] for panel in panels_of(dashboard) for target in panel["targets"])
    with open(RULES, encoding="utf-8") as file:
        lines = [line for line in file if not line.lstrip().startswith("#")]
    # A recorded name has a colon and is no family.
    text += re.sub(r"\S*:hakmem_\S*", " ", " ".join(lines))
    used = set()
    for name in FAMILY.findall(text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        used.add(base if base in exported else name)
    for family in sorted(exported - used):
        findings.add(f"{family} is exported but on no panel and in no rule")
    for family in sorted(used - exported - MAY_BE_ABSENT.keys()):
        findings.add(f"{family} is on a panel or in a rule but not exported")
    print(f"coverage: {len(exported)} families exported, {len(used)} used", flush=True)


def check_counters(scrape, findings):
    for family, kind in scrape.types.items():
        if kind == "counter" and scrape.total(family) == 0 and family not in MAY_STAY_ZERO:
            findings.add(f"{family} was not moved by the load")
        if kind == "histogram" and scrape.total(f"{family}_count") == 0:
            findings.add(f"{family} was not moved by the load")


def check_metrics(text, findings):
    result = subprocess.run([require("promtool", "prometheus"), "check", "metrics"], input=text, text=True,
                            capture_output=True, check=False)
    if result.returncode != 0:
        findings.add(f"promtool check metrics: {(result.stdout + result.stderr).strip()}")


def check_rules(prometheus, findings):
    groups = prometheus.api("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    if not rules:
        findings.add("prometheus loaded no rules")
    for rule in rules:
        if rule["health"] != "ok":
            findings.add(f"rule {rule['name']}: {rule['health']} {rule.get('lastError', '')}")


def prove(options, folder, processes, findings):
    check_installed(options.library)
    redis = Redis(processes, folder, options.library, metrics_port=0, port=0)
    prometheus = Prometheus(processes, folder, redis.metrics_port, port=0)
    start = time.time() + 2
    load(redis, processes, options.seconds)
    end = time.time()
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    check_panels(prometheus, dashboard, start, end, findings)
    check_the_check(prometheus, start, end, findings)
    scrape = redis.scrape()
    check_coverage(dashboard, set(scrape.types), findings)
    check_counters(scrape, findings)
    check_metrics(http_get(redis.metrics_url), findings)
    check_rules(prometheus, findings)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", default=LIBRARY)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long to load the server")
    options = parser.parse_args()
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="hakmem-prove-") as folder, Processes(folder) as processes:
        try:
            prove(options, folder, processes, findings)
        except (DemoError, OSError) as error:
            findings.add(str(processes.cause_of(error)))
    print(f"{len(findings.lines)} findings")
    return 1 if findings.lines else 0


if __name__ == "__main__":
    sys.exit(main())
