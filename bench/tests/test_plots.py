"""Plots of a real, tiny run: the files are there, and what they show is what was measured."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCH))

import plots
from errors import BenchError
from plots import PYTHON
from run_bench import DEFAULT_BUILD_DIR

HAVE_MATPLOTLIB = subprocess.run([PYTHON, "-c", "import matplotlib"], capture_output=True, check=False).returncode == 0


class PrepareTest(unittest.TestCase):
    def test_what_is_missing_is_said_before_the_run(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(plots, "PYTHON", "/bin/false"):
            with self.assertRaisesRegex(BenchError, "apt-get install python3-matplotlib"):
                plots.prepare(Path(folder))
        with self.assertRaisesRegex(BenchError, "--plots /dev/null/x: Not a directory"):
            plots.prepare(Path("/dev/null/x"))


@unittest.skipUnless(HAVE_MATPLOTLIB, "python3-matplotlib is not installed")
class PlotsTest(unittest.TestCase):
    def plots_of(self, *arguments: str) -> tuple[Path, dict]:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        drawn, result = Path(folder.name) / "new" / "plots", Path(folder.name) / "result.json"
        command = [sys.executable, str(BENCH / "run_bench.py"), "--build-dir", str(DEFAULT_BUILD_DIR), "--quick"]
        command += ["--runs", "1", "--without", "hakmem", "--without", "mimalloc", "--without", "tcmalloc"]
        command += ["--plots", str(drawn), "--json", str(result), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        return drawn, json.loads(result.read_text(encoding="utf-8"))

    def test_a_run_of_programs(self):
        drawn, document = self.plots_of("--only", "mixed")
        names = {"ratios.png", "ratios.svg", "rss-over-time.png", "rss-over-time.svg"}
        self.assertEqual({path.name for path in drawn.iterdir()}, names)
        for name in ("ratios", "rss-over-time"):
            self.assertTrue((drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG"))
            # Each text stands as a comment above its outlines; a curve is one path of many points.
            text = (drawn / f"{name}.svg").read_text(encoding="utf-8")
            ElementTree.fromstring(text)
            for shown in ("mixed", "glibc", "jemalloc"):
                self.assertIn(f"<!-- {shown} -->", text, name)
            self.assertNotIn("<!-- hakmem -->", text)
        curves = document["rss_over_time"]["mixed"]
        self.assertEqual(curves.keys(), {"glibc", "jemalloc"})
        for curve in curves.values():
            self.assertGreater(len(curve["bytes"]), 5)
            self.assertGreater(max(curve["bytes"]), 20 << 20)

    def test_micro_benchmarks_have_no_curves(self):
        drawn, _ = self.plots_of("--micro", "--only", "malloc_free/64")
        self.assertEqual({path.name for path in drawn.iterdir()}, {"ratios.png", "ratios.svg"})


if __name__ == "__main__":
    unittest.main()
