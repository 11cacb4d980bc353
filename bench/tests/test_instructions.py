"""How a dump of callgrind is read, and a small table from end to end."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(BENCH), str(BENCH / "instructions")]

from callgrind import read_profile
from run_bench import DEFAULT_BUILD_DIR

DUMP = """desc: Trigger: Client Request: free above, huge
events: Ir sysCount
ob=(1) /program
fn=(1) main
10 5
+2 7
cob=(2) /library.so
cfn=(2) free
calls=3 40
* 900 2
fn=(2)
-1 1
ob=(2)
fn=(2)
40 60
+1 4 2
fn=(3) munmap
* 20 1
"""


class ReadProfileTest(unittest.TestCase):
    def setUp(self):
        with tempfile.NamedTemporaryFile("w", suffix=".out") as file:
            file.write(DUMP)
            file.flush()
            self.profile = read_profile(Path(file.name))

    def test_the_cost_of_calls_is_the_callees(self):
        # Not the 900 of the calls: those are the library's own 84 and what it called, seen from the caller.
        self.assertEqual(
            dict(self.profile.costs["Ir"]),
            {
                ("/program", "main"): 12,
                ("/program", "free"): 1,
                ("/library.so", "free"): 64,
                ("/library.so", "munmap"): 20,
            },
        )

    def test_zeros_at_the_end_are_left_out(self):
        self.assertEqual(self.profile.costs["sysCount"].total(), 3)

    def test_label(self):
        self.assertEqual(self.profile.label, "free above, huge")


class TableTest(unittest.TestCase):
    def run_instructions(self, *arguments: str) -> subprocess.CompletedProcess:
        script = BENCH / "instructions" / "instructions.py"
        command = [sys.executable, str(script), "--build-dir", str(DEFAULT_BUILD_DIR), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_a_row(self):
        peers = [f"--without={name}" for name in ("jemalloc", "mimalloc", "tcmalloc")]
        result = self.run_instructions("--only", "pair16", *peers)
        self.assertEqual(result.returncode, 0, result.stderr)
        names, _, figures = (line.strip("|").split("|") for line in result.stdout.splitlines())
        self.assertEqual([name.strip() for name in names], ["row", "hakmem", "glibc"])
        hakmem, glibc = (float(figure) for figure in figures[1:])
        self.assertGreater(hakmem, 10)
        self.assertLess(hakmem, glibc)  # the C library's: neither the program's instructions nor the wrong library's

    def test_unknown_row(self):
        result = self.run_instructions("--only", "nothing")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--only nothing: no such row", result.stderr)


if __name__ == "__main__":
    unittest.main()
