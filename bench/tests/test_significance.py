"""The statistics against samples whose answers are known."""

import itertools
import math
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import significance
from significance import geometric_mean, mann_whitney, median_interval, smallest_p


def p_by_enumeration(first: list[float], second: list[float]) -> float:
    """The definition: the share of all splits at least as far from the middle as the one observed."""
    values = [*first, *second]

    def u(chosen: tuple[int, ...]) -> float:
        others = [i for i in range(len(values)) if i not in chosen]
        return sum((values[i] > values[j]) + 0.5 * (values[i] == values[j]) for i in chosen for j in others)

    middle = len(first) * len(second) / 2
    observed = abs(u(tuple(range(len(first)))) - middle)
    splits = list(itertools.combinations(range(len(values)), len(first)))
    return sum(abs(u(split) - middle) >= observed for split in splits) / len(splits)


class MannWhitneyTest(unittest.TestCase):
    def test_published_example(self):
        # Ages at diagnosis by sex, the example of SciPy's manual: U = 17, exact p = 1/9.
        result = mann_whitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
        self.assertEqual(result.u, 17)
        self.assertAlmostEqual(result.p, 1 / 9, places=12)

    def test_published_example_by_approximation(self):
        # The same manual gives 0.11134688653314041 for the normal approximation.
        limit, significance.EXACT_LIMIT = significance.EXACT_LIMIT, 0
        try:
            result = mann_whitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
        finally:
            significance.EXACT_LIMIT = limit
        self.assertAlmostEqual(result.p, 0.11134688653314041, places=12)

    def test_groups_that_do_not_overlap(self):
        for count, expected in ((3, 0.1), (4, 2 / 70), (5, 2 / 252)):
            low, high = list(range(count)), list(range(100, 100 + count))
            self.assertAlmostEqual(mann_whitney(low, high).p, expected, places=12)
            self.assertAlmostEqual(mann_whitney(high, low).p, expected, places=12)
            self.assertAlmostEqual(smallest_p(count, count), expected, places=12)

    def test_ties_against_the_definition(self):
        for first, second in (
            ([1, 2, 2, 3], [2, 3, 3, 4]),
            ([1, 1, 1], [1, 1, 2]),
            ([5.5, 6.5, 6.5, 7], [1, 6.5, 8]),
        ):
            self.assertAlmostEqual(mann_whitney(first, second).p, p_by_enumeration(first, second), places=12)

    def test_equal_samples_show_nothing(self):
        self.assertEqual(mann_whitney([7, 7, 7], [7, 7, 7]).p, 1)
        self.assertEqual(mann_whitney([7] * 30, [7] * 30).p, 1)  # by approximation

    def test_approximation_continues_the_exact_distribution(self):
        first = [(i * 37) % 101 for i in range(20)]
        second = [(i * 53) % 101 + 12 for i in range(20)]
        exact = mann_whitney(first, second).p
        limit, significance.EXACT_LIMIT = significance.EXACT_LIMIT, 0
        try:
            approximate = mann_whitney(first, second).p
        finally:
            significance.EXACT_LIMIT = limit
        self.assertAlmostEqual(exact, approximate, delta=0.005)


class MedianIntervalTest(unittest.TestCase):
    def test_few_samples_give_the_range_and_its_coverage(self):
        interval = median_interval([3, 1, 2, 5, 4])
        self.assertEqual((interval.low, interval.high), (1, 5))
        self.assertAlmostEqual(interval.coverage, 0.9375)

    def test_tabled_order_statistics(self):
        # Conover's table: at 95 %, n = 10 uses the 2nd and 9th, n = 20 the 6th and 15th value.
        for count, low, high, coverage in ((10, 2, 9, 0.978515625), (20, 6, 15, 0.9586105346679688)):
            interval = median_interval(list(range(1, count + 1)))
            self.assertEqual((interval.low, interval.high), (low, high))
            self.assertAlmostEqual(interval.coverage, coverage)

    def test_one_sample_promises_nothing(self):
        self.assertEqual(median_interval([4]).coverage, 0)


class GeometricMeanTest(unittest.TestCase):
    def test_known_values(self):
        self.assertAlmostEqual(geometric_mean([1, 10, 100]), 10)
        self.assertAlmostEqual(geometric_mean([0.5, 2]), 1)
        self.assertTrue(math.isclose(geometric_mean([3]), 3))


if __name__ == "__main__":
    unittest.main()
