"""Result documents: what a run means, as Markdown."""

import math
from dataclasses import dataclass

from allocators import HAKMEM
from significance import Interval, Noise, geometric_mean, judge, median, median_interval, noise_of


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    unit: str
    scale: float  # of the stored value into `unit`
    digits: int


TIME = Metric("time_seconds", "Time", "s", 1, 3)
CPU = Metric("cpu_seconds", "CPU time", "s", 1, 3)
RSS = Metric("peak_rss_bytes", "Peak RSS", "MiB", 1 / 2**20, 1)
MEAN_RSS = Metric("mean_rss_bytes", "Mean RSS over time", "MiB", 1 / 2**20, 1)
FAULTS = Metric("page_faults", "Page faults", "1,000", 1e-3, 1)
NANOSECONDS = Metric("time_seconds", "Time", "ns", 1e9, 1)


def metrics_of(document: dict) -> list[Metric]:
    return [NANOSECONDS] if document["kind"] == "micro" else [TIME, CPU, RSS, MEAN_RSS, FAULTS]


def values_of(document: dict, test: str, contestant: str, metric: Metric) -> list[float]:
    """Empty where the contestant crashed."""
    return [sample[metric.key] for sample in document["samples"][test].get(contestant, [])]


def median_of(document: dict, test: str, contestant: str, metric: Metric) -> float:
    """Infinite where the contestant crashed: worse than anything."""
    return median(values_of(document, test, contestant, metric) or [math.inf])


def best_peer(document: dict, test: str, metric: Metric) -> str | None:
    """The peer with the lowest median: neither hakmem nor the C library."""
    peers = [name for name, allocator in document["allocators"].items() if allocator["peer"]]
    return min(peers, key=lambda name: median_of(document, test, name, metric), default=None)


def overall(document: dict, contestant: str, metric: Metric) -> float:
    """Geometric mean over the tests; only its ratio to another contestant's means something."""
    return geometric_mean([median_of(document, test, contestant, metric) for test in document["samples"]])


def standing(document: dict, contestant: str) -> dict[str, float]:
    """By metric title: the contestant's geometric mean over that of the peer where it is lowest."""
    peers = [name for name, allocator in document["allocators"].items() if allocator["peer"]]
    return {
        metric.title: overall(document, contestant, metric) / min(overall(document, peer, metric) for peer in peers)
        for metric in metrics_of(document)
        if peers
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that can also be read as it is: first column to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        aligned = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:]))]
        return "| " + " | ".join(aligned) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def _figure(value: float, metric: Metric) -> str:
    return "crashed" if math.isinf(value) else f"{value * metric.scale:,.{metric.digits}f}"


def _medians_table(document: dict, metric: Metric) -> str:
    names = list(document["allocators"])
    rows = []
    for test in document["samples"]:
        best = best_peer(document, test, metric)
        row = [test]
        for name in names:
            value = median_of(document, test, name, metric)
            ratio = ""
            if best and not math.isinf(value):
                ratio = f" ({value / median_of(document, test, best, metric):.2f})"
            row.append(_figure(value, metric) + ratio)
        rows.append(row)
    return f"### {metric.title}, {metric.unit}: median (against the best peer)\n\n" + table(["test", *names], rows)


def _summary_table(document: dict) -> str:
    """One row an allocator: its geometric means against the best peer."""
    metrics = metrics_of(document)
    if not any(allocator["peer"] for allocator in document["allocators"].values()):
        return "No peer took part, so there is nothing to stand against."
    rows = []
    for name in document["allocators"]:
        row = [name]
        against_overall = standing(document, name)
        for metric in metrics:
            against_each = geometric_mean(
                [
                    median_of(document, test, name, metric)
                    / median_of(document, test, best_peer(document, test, metric), metric)
                    for test in document["samples"]
                ]
            )
            row += [f"{against_overall[metric.title]:.3f}", f"{against_each:.3f}"]
        rows.append(row)
    header = ["allocator"]
    for metric in metrics:
        header += [f"{metric.title.lower()}: overall", "each test"]
    return (
        "### Geometric means against the best peer\n\n"
        + table(header, rows)
        + "\n\n*Overall*: against the one peer whose geometric mean is lowest. "
        "*Each test*: against whichever peer is best on each test. Lower is better; inf: it crashed in a test."
    )


def _cpu_table(document: dict) -> str:
    rows = []
    for test, by_name in document["samples"].items():
        row = [test]
        for name in document["allocators"]:
            if name not in by_name:
                row.append("crashed")
                continue
            user, system = (median(run[key] for run in by_name[name]) for key in ("user_seconds", "sys_seconds"))
            row.append(f"{user:.3f} + {system:.3f}")
        rows.append(row)
    return "### CPU time, s: user + system, medians\n\n" + table(["test", *document["allocators"]], rows)


def _interval(interval: Interval, metric: Metric) -> str:
    return f"{_figure(interval.low, metric)} to {_figure(interval.high, metric)}"


def _details_table(document: dict) -> str:
    """Spread of every median, and whether the difference to the best peer is significant."""
    metric = metrics_of(document)[0]
    noise = noise_in(document, metric)
    words = {"worse": "slower", "better": "faster"}
    rows, coverage = [], 1.0
    for test in document["samples"]:
        best = best_peer(document, test, metric)
        for name in document["allocators"]:
            values = values_of(document, test, name, metric)
            if not values:
                continue
            interval = median_interval(values)
            coverage = min(coverage, interval.coverage)
            row = [f"{test}, {name}", _figure(median(values), metric), _interval(interval, metric)]
            if best is None or name == best:
                row.append("")
            else:
                p, verdict = judge(values_of(document, test, best, metric), values, noise.tests[test])
                row.append(f"{words.get(verdict, verdict)} (p = {p:.3f})")
            rows.append(row)
    header = ["test, allocator", "median", f"{coverage:.0%} interval", "against the best peer"]
    return f"### {metric.title}, {metric.unit}: spread and significance\n\n" + table(header, rows)


def noise_in(document: dict, metric: Metric) -> Noise:
    """The noise of the document's reference allocator, measured before its runs."""
    return noise_of(
        {test: [sample[metric.key] for sample in runs] for test, runs in document["noise_samples"].items()}
    )


def noise_lines(document: dict) -> list[str]:
    """How far runs of one allocator lie apart from each other: less than that is not a finding."""
    lines = []
    for metric in metrics_of(document):
        noise = noise_in(document, metric)
        worst = max(noise.tests, key=noise.tests.__getitem__)
        lines.append(
            f"Noise, {document['reference']} against itself, {metric.title.lower()}: {noise.overall:.1%} on the "
            f"geometric mean, {median(noise.tests.values()):.1%} on the median test, "
            f"{noise.tests[worst]:.1%} at most ({worst})."
        )
    return lines


def _machine_lines(document: dict) -> list[str]:
    machine = document["machine"]
    lines = [
        f"{machine['processor']}, {machine['processors']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"Linux {machine['kernel']}, transparent huge pages: {machine['transparent_hugepage']}; "
        f"load before {machine['load_before']:.2f}, runs of each: {document['runs']}, "
        f"{document['arguments']} arguments."
    ]
    for name, allocator in document["allocators"].items():
        library = f", {allocator['library']}" if allocator["library"] else ""
        lines.append(f"- {name}: {allocator['version']}{library}")
    return lines


def opening(document: dict) -> str:
    """What is known before the long run: machine, contestants and noise."""
    parts = [f"## hakmem bench, {document['kind']}, {document['started']}", "\n".join(_machine_lines(document))]
    return "\n\n".join([*parts, "\n".join(noise_lines(document))]) + "\n\n"


def _verdict_line(document: dict) -> str:
    """Where hakmem stands; a difference that noise alone makes is none."""
    figures = []
    for metric in metrics_of(document):
        ratio, noise = standing(document, HAKMEM)[metric.title], noise_in(document, metric).overall
        none = f" (no difference: the noise is {noise:.1%})" if max(ratio, 1 / ratio) - 1 <= noise else ""
        figures.append(f"{metric.title.lower()} {ratio:.3f}{none}")
    return f"**hakmem against the best peer overall: {', '.join(figures)}.**"


def results(document: dict) -> str:
    """Everything after `opening`."""
    parts = [_medians_table(document, metric) for metric in metrics_of(document)]
    if document["kind"] != "micro":
        parts.append(_cpu_table(document))
    parts += [_details_table(document), _summary_table(document)]
    load = document["machine"]["load_before"]
    if load > document["machine"]["processors"] / 4:
        parts.append(f"**The machine was busy before the run (load {load:.2f}): trust ratios little and times less.**")
    parts.append(f"{document['duration_seconds']:.0f} s in all.")
    if HAKMEM not in document["allocators"]:
        parts.append("hakmem was left out of this run.")
    elif standing(document, HAKMEM):
        parts.append(_verdict_line(document))
    return "\n\n".join(parts) + "\n"
