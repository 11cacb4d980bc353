"""The report on samples with known ratios: best peers, geometric means, noise, the limit."""

import contextlib
import io
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report import TIME, best_peer, noise_lines, opening, results, standing
from run_bench import check_limit


def samples(seconds: float, mebibytes: float) -> list[dict]:
    """Three runs whose medians are the arguments."""
    return [
        {
            "time_seconds": seconds * factor,
            "cpu_seconds": seconds * factor,
            "user_seconds": seconds * factor * 0.75,
            "sys_seconds": seconds * factor * 0.25,
            "peak_rss_bytes": mebibytes * factor * 2**20,
            "mean_rss_bytes": mebibytes * factor * 2**19,
            "page_faults": 1000,
        }
        for factor in (0.9, 1.0, 1.3)
    ]


def document() -> dict:
    """hakmem takes 2 x and 1.125 x the time of fast, and half and twice its memory."""
    allocator = {"version": "1", "library": None}
    return {
        "kind": "macro",
        "arguments": "quick",
        "started": "2026-01-01T00:00:00+00:00",
        "runs": 3,
        "duration_seconds": 1.0,
        "reference": "hakmem",
        "machine": {
            "processor": "test",
            "processors": 2,
            "memory_bytes": 2**30,
            "kernel": "6.1",
            "transparent_hugepage": "madvise",
            "load_before": 0.0,
        },
        "allocators": {
            "hakmem": allocator | {"peer": False},
            "glibc": allocator | {"peer": False},
            "fast": allocator | {"peer": True},
            "small": allocator | {"peer": True},
        },
        # Sides of three: larson 5 % apart in time, random 10 % in memory, and nothing else.
        "noise_samples": {
            "larson": [samples(2.0, 20)[1]] * 3 + [samples(2.1, 20)[1]] * 3,
            "random": [samples(4.5, 80)[1]] * 3 + [samples(4.5, 88)[1]] * 3,
        },
        "samples": {
            "larson": {
                "hakmem": samples(2.0, 20),
                "glibc": samples(0.5, 10),
                "fast": samples(1.0, 40),
                "small": samples(3.0, 20),
            },
            "random": {
                "hakmem": samples(4.5, 80),
                "glibc": samples(0.5, 10),
                "fast": samples(4.0, 40),
                "small": samples(2.0, 20),
            },
        },
    }


class ReportTest(unittest.TestCase):
    def test_a_peer_that_crashed_is_the_worst(self):
        crashed = document()
        del crashed["samples"]["random"]["fast"]
        text = results(crashed)
        self.assertEqual(best_peer(crashed, "random", TIME), "small")
        self.assertRegex(text, r"\| random .* crashed \|")
        self.assertNotIn("nan", text)

    def test_best_peer_is_neither_hakmem_nor_glibc(self):
        self.assertEqual(best_peer(document(), "larson", TIME), "fast")
        self.assertEqual(best_peer(document(), "random", TIME), "small")

    def test_standing(self):
        # Geometric means: hakmem 3 s and 40 MiB, fast 2 s and 40 MiB, small 6^0.5 s and 20 MiB.
        against = standing(document(), "hakmem")
        self.assertAlmostEqual(against["Time"], 1.5)
        self.assertAlmostEqual(against["Peak RSS"], 2.0)
        self.assertAlmostEqual(standing(document(), "fast")["Time"], 1.0)

    def test_summary_has_both_ratios(self):
        # Against each test's best: (2 / 1 * 4.5 / 2) ^ 0.5 = 2.121 for time.
        text = results(document())
        self.assertRegex(text, r"\| hakmem +\| +1\.500 \| +2\.121 \|")
        self.assertIn("**hakmem against the best peer overall: time 1.500, cpu time 1.500, peak rss 2.000", text)

    def test_user_and_system_time(self):
        self.assertRegex(results(document()), r"\| larson +\| 1\.500 \+ 0\.500 \| 0\.375 \+ 0\.125 \|")

    def test_a_difference_below_the_noise_is_none(self):
        close = document()
        close["samples"]["larson"]["hakmem"] = samples(1.02, 20)
        close["samples"]["random"]["hakmem"] = samples(4.0, 80)
        self.assertIn("time 1.010 (no difference: the noise is 2.5%), cpu time", results(close))
        self.assertIn("peak rss 2.000, ", results(close))

    def test_noise(self):
        time, _, rss, *_ = noise_lines(document())
        self.assertIn("time: 2.5% on the geometric mean, 2.5% on the median test, 5.0% at most (larson)", time)
        self.assertIn("peak rss: 4.9% on the geometric mean, 5.0% on the median test, 10.0% at most (random)", rss)
        self.assertIn(time, opening(document()))

    def test_busy_machine_is_said(self):
        busy = document()
        busy["machine"]["load_before"] = 1.5
        self.assertIn("The machine was busy", results(busy))
        self.assertNotIn("The machine was busy", results(document()))

    def test_limit(self):
        for limit, status, told in ((2.5, 0, ""), (1.75, 1, "peak rss: 2.000"), (1.25, 1, "time: 1.500")):
            with contextlib.redirect_stderr(io.StringIO()) as stderr:
                self.assertEqual(check_limit(document(), limit), status)
            self.assertIn(told, stderr.getvalue())

    def test_without_peers(self):
        alone = document()
        for name in ("fast", "small"):
            del alone["allocators"][name]
        self.assertIn("No peer took part", results(alone))
        self.assertEqual(standing(alone, "hakmem"), {})


if __name__ == "__main__":
    unittest.main()
