"""`bench compare` on result files with known differences: verdicts, exit status, refusals."""

import copy
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

from compare import FORMAT

STEADY = [1.00, 1.01, 0.99, 1.02, 0.98]
STILL = {"time_seconds": 1.0, "peak_rss_bytes": 50 << 20}


def document(times: dict[str, list[float]], rss_bytes: int = 50 << 20) -> dict:
    """A result file with one allocator, hakmem, and these times by test."""
    samples = {
        test: {
            "hakmem": [
                {"time_seconds": t, "cpu_seconds": t, "peak_rss_bytes": rss_bytes + 4096 * i, "page_faults": 1000}
                for i, t in enumerate(values)
            ]
        }
        for test, values in times.items()
    }
    return {
        "format": FORMAT,
        "kind": "macro",
        "runs": len(next(iter(times.values()))),
        "machine": {"processor": "test", "processors": 2, "kernel": "6.1"},
        "allocators": {"hakmem": {"peer": False}},
        "tests": {test: ["--seed=1"] for test in times},
        "samples": samples,
        "noise_samples": {test: [STILL] * 6 for test in times},
    }


def verdicts_of(output: str) -> dict[tuple[str, str], str]:
    """Verdicts by test and metric, from the printed table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[-1] for row in rows[1:]}


class CommandTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def compare(self, before: dict, after: dict, *options: str) -> subprocess.CompletedProcess:
        paths = []
        for name, content in (("before.json", before), ("after.json", after)):
            paths.append(str(self.folder / name))
            Path(paths[-1]).write_text(json.dumps(content), encoding="utf-8")
        return self.run_compare(*paths, *options)

    def run_compare(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(BENCH / "run_bench.py"), "compare", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_same_and_better_exit_0(self):
        before = document({"larson": STEADY, "random": STEADY})
        after = document({"larson": STEADY, "random": [t * 0.8 for t in STEADY]})
        result = self.compare(before, after)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(
            verdicts_of(result.stdout),
            {
                ("larson", "time"): "same",
                ("larson", "peak rss"): "same",
                ("random", "time"): "better",
                ("random", "peak rss"): "same",
            },
        )

    def test_slower_exits_1_and_is_named(self):
        result = self.compare(
            document({"larson": STEADY, "random": STEADY}),
            document({"larson": [t * 1.2 for t in STEADY], "random": STEADY}),
        )
        self.assertEqual(result.returncode, 1)
        self.assertIn("Significantly worse: larson (time)", result.stdout)

    def test_below_the_noise_of_either_file_is_no_loss(self):
        before, after = document({"larson": STEADY}), document({"larson": [t * 1.2 for t in STEADY]})
        after["noise_samples"]["larson"] = [STILL | {"time_seconds": t} for t in (1.0, 1.25, 1.0, 1.25, 1.0, 1.25)]
        for files in ((before, after), (after, before)):
            result = self.compare(*files)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(verdicts_of(result.stdout)["larson", "time"], "noise")

    def test_more_memory_exits_1(self):
        result = self.compare(document({"larson": STEADY}), document({"larson": STEADY}, rss_bytes=60 << 20))
        self.assertEqual(result.returncode, 1)
        self.assertIn("Significantly worse: larson (peak rss)", result.stdout)

    def test_too_few_runs_are_said(self):
        result = self.compare(document({"larson": STEADY[:3]}), document({"larson": [9.0, 9.1, 9.2]}))
        self.assertEqual(result.returncode, 0)
        self.assertIn("can show nothing", result.stdout)

    def test_other_allocator_of_the_second_file(self):
        before = document({"larson": STEADY})
        after = document({"larson": STEADY})
        after["allocators"]["mimalloc"] = {"peer": True}
        twice = document({"larson": [t * 2 for t in STEADY]})
        after["samples"]["larson"]["mimalloc"] = twice["samples"]["larson"]["hakmem"]
        result = self.compare(before, after, "--against", "mimalloc")
        self.assertEqual(result.returncode, 1)
        self.assertIn("+100.0%", result.stdout)

    def test_refusals(self):
        before = document({"larson": STEADY})
        other_arguments = copy.deepcopy(before)
        other_arguments["tests"]["larson"] = ["--seed=2"]
        older_format = before | {"format": FORMAT - 1}
        other_tests = document({"random": STEADY})
        for after, message in (
            (other_arguments, "different arguments"),
            (older_format, f"format {FORMAT - 1}, this script reads {FORMAT}: run the benchmark again"),
            (other_tests, "no test in common"),
            ([], "not a result file"),
        ):
            result = self.compare(before, after)
            self.assertEqual(result.returncode, 2, message)
            self.assertIn(message, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertIn("has no jemalloc", self.compare(before, before, "--allocator", "jemalloc").stderr)
        missing = self.run_compare(str(self.folder / "none.json"), str(self.folder / "none.json"))
        self.assertEqual(missing.returncode, 2)
        self.assertIn("No such file", missing.stderr)


if __name__ == "__main__":
    unittest.main()
