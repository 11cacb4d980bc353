"""`bench compare A.json B.json`: is B better, worse or the same as A?"""

import json
from dataclasses import dataclass

from document import FORMAT
from errors import BenchError
from report import RSS, Metric, metrics_of, noise_in, table, values_of
from significance import SIGNIFICANT_P, geometric_mean, judge, median, smallest_p


@dataclass(frozen=True)
class Change:
    test: str
    metric: Metric
    before: float
    after: float
    p: float
    noise: float  # the larger one of the two files
    verdict: str  # better, worse, same, noise

    @property
    def ratio(self) -> float:
        return self.after / self.before


def load(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        if document["format"] != FORMAT:
            raise BenchError(f"{path}: format {document['format']}, this script reads {FORMAT}: run the benchmark again")
        return document
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{path}: not a result file of ./run bench") from None


def _require_allocator(document: dict, name: str, path: str) -> None:
    if name not in document["allocators"]:
        raise BenchError(f"{path}: has no {name}, only {', '.join(document['allocators'])}")


def changes_between(before: dict, before_name: str, after: dict, after_name: str) -> list[Change]:
    """A change for each test that both have with the same arguments, by time and by peak RSS."""
    if before["kind"] != after["kind"]:
        raise BenchError(f"one file is of the {before['kind']} benchmarks, the other of the {after['kind']} ones")
    judged = [metric for metric in metrics_of(before) if metric == RSS or metric.key == "time_seconds"]
    changes = []
    for test in before["samples"]:
        if test not in after["samples"]:
            continue
        if before["tests"][test] != after["tests"][test]:
            raise BenchError(f"{test}: the two files were made with different arguments")
        for metric in judged:
            old = values_of(before, test, before_name, metric)
            new = values_of(after, test, after_name, metric)
            if not old or not new:
                raise BenchError(f"{test}: {before_name if not old else after_name} crashed")
            noise = max(noise_in(document, metric).tests[test] for document in (before, after))
            p, verdict = judge(old, new, noise)
            changes.append(Change(test, metric, median(old), median(new), p, noise, verdict))
    if not changes:
        raise BenchError("the two files have no test in common")
    return changes


def _warnings(before: dict, after: dict, names: tuple[str, str]) -> list[str]:
    warnings = []
    for key in ("processor", "processors", "kernel"):
        if before["machine"][key] != after["machine"][key]:
            warnings.append(f"Other {key}: {before['machine'][key]} before, {after['machine'][key]} after.")
    if smallest_p(before["runs"], after["runs"]) >= SIGNIFICANT_P:
        warnings.append(
            f"{before['runs']} runs against {after['runs']} can show nothing at p < {SIGNIFICANT_P}: take at least 5."
        )
    for test in sorted(before["samples"].keys() ^ after["samples"].keys()):
        warnings.append(f"{test} is in one file only.")
    if names[0] != names[1]:
        warnings.append(f"Before is {names[0]}, after is {names[1]}.")
    return warnings


def compare(before_path: str, after_path: str, before_name: str, after_name: str) -> int:
    """Prints the comparison; returns 1 if any test got significantly worse, else 0."""
    before, after = load(before_path), load(after_path)
    _require_allocator(before, before_name, before_path)
    _require_allocator(after, after_name, after_path)
    changes = changes_between(before, before_name, after, after_name)
    rows = [
        [
            change.test,
            change.metric.title.lower(),
            f"{change.before * change.metric.scale:,.{change.metric.digits}f} {change.metric.unit}",
            f"{change.after * change.metric.scale:,.{change.metric.digits}f} {change.metric.unit}",
            f"{change.ratio - 1:+.1%}",
            f"{change.noise:.1%}",
            f"{change.p:.3f}",
            change.verdict,
        ]
        for change in changes
    ]
    print(table(["test", "metric", "before", "after", "change", "noise", "p", "verdict"], rows) + "\n")
    for metric in dict.fromkeys(change.metric for change in changes):
        ratio = geometric_mean([change.ratio for change in changes if change.metric == metric])
        print(f"{metric.title}, geometric mean of the changes: {ratio - 1:+.1%}")
    for warning in _warnings(before, after, (before_name, after_name)):
        print(f"Note: {warning}")
    worse = [change for change in changes if change.verdict == "worse"]
    if worse:
        print("Significantly worse: " + ", ".join(f"{change.test} ({change.metric.title.lower()})" for change in worse))
    return 1 if worse else 0
