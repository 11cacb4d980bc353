"""The judge of the soak passes what is flat and notices what grows, in noise."""

import random
import unittest

from flatness import Flatness

MIB = 1 << 20


def looks(growth, noise, count=400):
    """A level of 50 MiB that grows by `growth` bytes over the whole time."""
    source = random.Random(1)
    return [(second, 50 * MIB + growth * second / count + source.uniform(0, noise)) for second in range(count)]


class FlatnessTest(unittest.TestCase):
    def judge(self, series):
        return Flatness(series, 2 * MIB, 0.02)

    def test_noise_is_flat(self):
        self.assertTrue(self.judge(looks(0, 30 * MIB)).is_flat())

    def test_a_fall_is_flat(self):
        self.assertTrue(self.judge(looks(-20 * MIB, MIB)).is_flat())

    def test_steps_at_the_start_are_flat(self):
        series = [(second, value - 20 * MIB * (second < 80)) for second, value in looks(0, MIB)]
        self.assertTrue(self.judge(series).is_flat())

    def test_a_peak_is_flat(self):
        series = [(second, value + 200 * MIB * (200 < second < 230)) for second, value in looks(0, MIB)]
        self.assertTrue(self.judge(series).is_flat())

    def test_growth_is_noticed(self):
        judged = self.judge(looks(5 * MIB, MIB))
        self.assertFalse(judged.is_flat())
        self.assertAlmostEqual(judged.growth, 0.75 * 5 * MIB, delta=MIB)

    def test_growth_beneath_noise_is_noticed(self):
        self.assertFalse(self.judge(looks(8 * MIB, 6 * MIB)).is_flat())

    def test_too_few_measurements_are_no_proof(self):
        with self.assertRaises(ValueError):
            self.judge(looks(0, 0, 6))


if __name__ == "__main__":
    unittest.main()
