"""The table of L1d misses, and one small measurement from end to end."""

import math
import subprocess
import sys
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

from misses import misses_table
from run_bench import DEFAULT_BUILD_DIR


class MissesTest(unittest.TestCase):
    def test_ratios_are_to_the_best_peer(self):
        rates = {"larson": {"hakmem": 0.03, "fast": 0.04, "other": 0.06, "broken": math.inf}}
        text = misses_table(rates, {"fast", "other", "broken"})
        self.assertRegex(text, r"\| larson \| 3.00 \(0.75\) \| 4.00 \(1.00\) \| 6.00 \(1.50\) \| +- \|")

    def test_a_real_run(self):
        left_out = [f"--without={name}" for name in ("glibc", "jemalloc", "mimalloc")]
        command = [sys.executable, str(BENCH / "run_bench.py"), "misses", "--only", "larson", *left_out]
        command += ["--build-dir", str(DEFAULT_BUILD_DIR.resolve())]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertRegex(result.stdout, r"\| larson \| \d+\.\d\d \(\d+\.\d\d\) \| \d+\.\d\d \(1\.00\) \|", result.stderr)


if __name__ == "__main__":
    unittest.main()
