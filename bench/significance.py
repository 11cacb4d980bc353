"""The statistics of the benchmarks, exact for the few runs they have.

Nothing here assumes a distribution of the times: medians, order statistics and
ranks only, since run times have a long tail and no bell.
"""

import math
import statistics
from dataclasses import dataclass
from itertools import combinations

# Up to this many samples in both groups together the rank-sum distribution is
# computed exactly; above it the normal approximation is good to three digits.
EXACT_LIMIT = 40

SIGNIFICANT_P = 0.01  # a dozen tests are looked at together, so 0.05 would cry wolf every other time
# A difference below this is no finding even where it is significant: peak RSS
# is so repeatable that a few pages would be.
SMALLEST_CHANGE = 0.01

median = statistics.median


def geometric_mean(values: list[float]) -> float:
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    coverage: float  # probability that the interval holds the true median


def median_interval(samples: list[float], confidence: float = 0.95) -> Interval:
    """Narrowest pair of order statistics that covers the median with `confidence`.

    Below six samples no pair reaches 95 %: then it is the range, and `coverage`
    says what that is worth. (Conover, Practical Nonparametric Statistics, 3.2.)
    """
    ordered = sorted(samples)
    count = len(ordered)
    best = Interval(ordered[0], ordered[-1], 1 - 2 * 0.5**count)
    outside = 0.0
    for rank in range((count - 1) // 2):
        outside += 2 * math.comb(count, rank) * 0.5**count
        next_coverage = 1 - outside - 2 * math.comb(count, rank + 1) * 0.5**count
        if next_coverage < confidence:
            break
        best = Interval(ordered[rank + 1], ordered[count - rank - 2], next_coverage)
    return best


@dataclass(frozen=True)
class MannWhitney:
    u: float  # of the first group: pairs in which it is larger, ties counting half
    p: float  # two-sided


def mann_whitney(first: list[float], second: list[float]) -> MannWhitney:
    """Mann-Whitney U test, two-sided, with ties by mid-ranks."""
    ranks = _doubled_ranks([*first, *second])
    doubled_sum = sum(ranks[: len(first)])
    u = (doubled_sum - len(first) * (len(first) + 1)) / 2
    if len(ranks) <= EXACT_LIMIT:
        return MannWhitney(u, _exact_p(ranks, len(first), doubled_sum))
    return MannWhitney(u, _approximate_p(ranks, len(first), u))


def judge(before: list[float], after: list[float], noise: float) -> tuple[float, str]:
    """p and verdict (better, worse, same, noise) on two groups of samples of which lower is better."""
    p = mann_whitney(before, after).p
    ratio = median(after) / median(before)
    change = max(ratio, 1 / ratio) - 1
    if p >= SIGNIFICANT_P or change < SMALLEST_CHANGE:
        return p, "same"
    if change <= noise:
        return p, "noise"
    return p, "worse" if ratio > 1 else "better"


@dataclass(frozen=True)
class Noise:
    """How far apart two sides come out that are the same one; 0.02 is 2 %."""

    overall: float  # on the geometric mean over the tests
    tests: dict[str, float]


def noise_of(runs: dict[str, list[float]]) -> Noise:
    """Noise of one allocator's runs, by test: the largest difference over every way to make two sides of them.

    Run i of all tests goes to the same side, as in a comparison. Six runs can
    be halved in ten ways, so chance alone exceeds this about once in ten times.
    """
    count = min(len(values) for values in runs.values())
    ratios: dict[str, list[float]] = {test: [] for test in runs}
    for others in combinations(range(1, count), count // 2 - 1):
        first = {0, *others}
        for test, values in runs.items():
            sides = [[values[i] for i in range(count) if (i in first) == side] for side in (True, False)]
            ratios[test].append(median(sides[1]) / median(sides[0]))
    wholes = [geometric_mean(list(split)) for split in zip(*ratios.values())]

    def largest(values: list[float]) -> float:
        return max(max(value, 1 / value) for value in values) - 1

    return Noise(largest(wholes), {test: largest(values) for test, values in ratios.items()})


def smallest_p(first_count: int, second_count: int) -> float:
    """The p of two groups that do not overlap: with few runs it may exceed any sensible level."""
    return 2 / math.comb(first_count + second_count, first_count)


def _doubled_ranks(values: list[float]) -> list[int]:
    """Twice the mid-rank of each value, which is a whole number also for ties."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for position in range(start, end):
            ranks[order[position]] = start + 1 + end
        start = end
    return ranks


def _exact_p(ranks: list[int], first_count: int, doubled_sum: int) -> float:
    """Share of all ways to split the ranks that are at least as far from the middle."""
    # ways[k] maps a rank sum to the number of k-element subsets that have it.
    ways: list[dict[int, int]] = [{0: 1}] + [{} for _ in range(first_count)]
    for rank in ranks:
        for k in range(first_count, 0, -1):
            for total, number in ways[k - 1].items():
                ways[k][total + rank] = ways[k].get(total + rank, 0) + number
    expected = first_count * (len(ranks) + 1)
    distance = abs(doubled_sum - expected)
    extreme = sum(number for total, number in ways[first_count].items() if abs(total - expected) >= distance)
    return extreme / math.comb(len(ranks), first_count)


def _approximate_p(ranks: list[int], first_count: int, u: float) -> float:
    """Normal approximation with tie and continuity corrections."""
    total = len(ranks)
    second_count = total - first_count
    ties = math.fsum(number**3 - number for number in (ranks.count(rank) for rank in set(ranks)))
    variance = first_count * second_count / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:
        return 1.0
    z = max(abs(u - first_count * second_count / 2) - 0.5, 0) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
