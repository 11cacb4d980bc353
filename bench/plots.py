"""Plots of a result document: where each allocator stands on each test, and resident memory over time.

    plots.py DIR < RESULTS.json      writes ratios and rss-over-time, each as PNG and SVG, into DIR

A process of its own under Debian's Python, which is the one that Debian's matplotlib belongs to.
"""

import json
import subprocess
import sys
from pathlib import Path

from allocators import HAKMEM
from errors import BenchError
from report import RSS, Metric, best_peer, median_of, metrics_of, noise_in, values_of
from significance import median_interval

PYTHON = "/usr/bin/python3"
# Told apart by colour-blind readers and in grey (Okabe and Ito 2008); hakmem has the first.
COLOURS = ("#D55E00", "#7F7F7F", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oDs^vPX*"
# For axes that span a factor of up to 3, up to 15, and more.
TICKS = (
    (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2),
    (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 10),
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
PANEL_COLUMNS = 3


def prepare(folder: Path) -> None:
    """Makes the folder and sees that it will be possible to draw, before the long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check = subprocess.run([PYTHON, "-c", "import matplotlib"], capture_output=True, check=False)
    except OSError as error:
        raise BenchError(f"--plots {folder}: {error.strerror}") from error
    if check.returncode != 0:
        raise BenchError("--plots: matplotlib is not installed: apt-get install python3-matplotlib")


def draw(document: dict, folder: Path) -> None:
    command = [PYTHON, __file__, str(folder)]
    result = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BenchError(f"--plots {folder}: {(result.stderr.strip().splitlines() or ['failed'])[-1]}")


def _style(document: dict) -> dict[str, dict]:
    """Colour and marker by allocator; hakmem is drawn above the others."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "zorder": 4 if name == HAKMEM else 3,
            "label": name,
        }
        for i, name in enumerate(document["allocators"])
    }


def _ratio_panel(axes, document: dict, metric: Metric) -> None:
    """Medians with their intervals over the best peer's median, in a row a test, noise as a grey band."""
    tests = list(document["samples"])
    names = list(document["allocators"])
    noise = noise_in(document, metric)
    for row, test in enumerate(tests):
        width = noise.tests[test]
        axes.fill_betweenx([row - 0.45, row + 0.45], 1 / (1 + width), 1 + width, color="#E4E4E4", linewidth=0, zorder=1)
    for position, (name, style) in enumerate(_style(document).items()):
        centers, errors, rows = [], [[], []], []
        for row, test in enumerate(tests):
            if not values_of(document, test, name, metric):
                continue  # it crashed
            base = median_of(document, test, best_peer(document, test, metric) or names[0], metric)
            center = median_of(document, test, name, metric) / base
            interval = median_interval(values_of(document, test, name, metric))
            centers.append(center)
            errors[0].append(center - interval.low / base)
            errors[1].append(interval.high / base - center)
            rows.append(row + 0.7 * ((position + 0.5) / len(names) - 0.5))
        axes.errorbar(centers, rows, xerr=errors, linestyle="none", markersize=4.5, linewidth=1, **style)
    axes.axvline(1, color="black", linewidth=0.8, zorder=2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    span = high / low
    ticks = TICKS[0 if span <= 3 else 1 if span <= 15 else 2]
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.set_xticks([], minor=True)
    axes.get_xaxis().set_major_formatter("{x:g}")
    axes.set_xlabel(f"{metric.title}, ratio to the best peer (lower is better)")
    axes.set_yticks(range(len(tests)), tests)
    axes.set_ylim(len(tests) - 0.5, -0.5)
    axes.grid(axis="x", color="#D0D0D0", linewidth=0.5)


def _legend_below(figure, axes) -> None:
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=8, frameon=False)


def ratios(pyplot, document: dict):
    """The figure of time and, for programs, peak RSS against the best peer."""
    metrics = [metrics_of(document)[0]] + ([RSS] if RSS in metrics_of(document) else [])
    height = 1.5 + 0.11 * len(document["samples"]) * (len(document["allocators"]) + 1)
    figure, panels = pyplot.subplots(
        1, len(metrics), figsize=(6 * len(metrics), height), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, metric in zip(panels[0], metrics):
        _ratio_panel(axes, document, metric)
    figure.suptitle(f"hakmem bench, {document['started'][:10]}: medians of {document['runs']} runs, grey: noise")
    _legend_below(figure, panels[0][0])
    return figure


def rss_over_time(pyplot, document: dict):
    """A panel a test: resident memory of one run under each allocator."""
    curves = document["rss_over_time"]
    rows = -(-len(curves) // PANEL_COLUMNS)
    figure, panels = pyplot.subplots(
        rows, PANEL_COLUMNS, figsize=(12, 0.8 + 2.5 * rows), squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(curves) :]:
        axes.set_visible(False)
    styles = _style(document)
    for axes, (test, by_name) in zip(panels.flat, curves.items()):
        for name, curve in by_name.items():
            times = [curve["period_seconds"] * (i + 1) for i in range(len(curve["bytes"]))]
            style = styles[name] | {"marker": None, "linewidth": 1.8 if name == HAKMEM else 1.1}
            axes.plot(times, [value / 2**20 for value in curve["bytes"]], **style)
        axes.set_title(test, fontsize=10)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="#E0E0E0", linewidth=0.5)
    figure.supxlabel("seconds")
    figure.supylabel("resident memory, MiB")
    _legend_below(figure, panels.flat[0])
    return figure


def main(folder: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    document = json.load(sys.stdin)
    figures = {"ratios": ratios(pyplot, document)}
    if document["rss_over_time"]:
        figures["rss-over-time"] = rss_over_time(pyplot, document)
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            figure.savefig(Path(folder) / f"{name}.{suffix}", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1])
