"""The statistics against samples whose answers are known."""

import itertools
import math
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import significance
from significance import geometric_mean, judge, mann_whitney, median_interval, noise_of, smallest_p


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


class JudgeTest(unittest.TestCase):
    STEADY = [1.00, 1.01, 0.99, 1.02, 0.98]

    def test_verdicts(self):
        for factor, verdict in ((1, "same"), (1.1, "worse"), (0.9, "better"), (1.02, "same")):
            self.assertEqual(judge(self.STEADY, [t * factor for t in self.STEADY], 0.05)[1], verdict, factor)

    def test_significant_but_tiny_is_no_finding(self):
        p, verdict = judge([1.0000, 1.0001, 1.0002, 1.0003, 1.0004], [1.001, 1.0011, 1.0012, 1.0013, 1.0014], 0)
        self.assertLess(p, 0.01)
        self.assertEqual(verdict, "same")

    def test_significant_but_below_the_noise_is_said_to_be_noise(self):
        for factor in (1.1, 0.9):
            self.assertEqual(judge(self.STEADY, [t * factor for t in self.STEADY], 0.12)[1], "noise")

    def test_half_is_as_far_as_twice(self):
        for factor, verdict in ((2, "worse"), (0.5, "better")):
            self.assertEqual(judge(self.STEADY, [t * factor for t in self.STEADY], 0.9)[1], verdict)
            self.assertEqual(judge(self.STEADY, [t * factor for t in self.STEADY], 1.1)[1], "noise")


class NoiseTest(unittest.TestCase):
    def test_equal_runs_have_none(self):
        noise = noise_of({"larson": [2.0] * 6, "random": [5.0] * 6})
        self.assertEqual((noise.overall, noise.tests), (0, {"larson": 0, "random": 0}))

    def test_the_worst_halves_count(self):
        # Sides of three: medians 1.25 and 1 when the three largest stand together, whichever run they were.
        noise = noise_of({"larson": [1, 1.25, 1, 1.25, 1.25, 1], "random": [1, 0.8, 1, 0.8, 0.8, 1]})
        self.assertAlmostEqual(noise.tests["larson"], 0.25)
        self.assertAlmostEqual(noise.tests["random"], 0.25)
        # Run by run the two tests cancel each other out.
        self.assertAlmostEqual(noise.overall, 0)

    def test_one_wild_run_is_not_noise(self):
        self.assertEqual(noise_of({"larson": [1, 1, 1, 9, 1, 1]}).tests["larson"], 0)


class GeometricMeanTest(unittest.TestCase):
    def test_known_values(self):
        self.assertAlmostEqual(geometric_mean([1, 10, 100]), 10)
        self.assertAlmostEqual(geometric_mean([0.5, 2]), 1)
        self.assertTrue(math.isclose(geometric_mean([3]), 3))


if __name__ == "__main__":
    unittest.main()
