"""What the start of a preloaded program costs, by what can be counted: system calls and page faults."""

import os
import subprocess
import sys
import tempfile

import harness

PROGRAM = "/bin/true"
# Loading a library that holds nothing takes nine system calls and seven page faults here.
SYSTEM_CALLS = 11
PAGE_FAULTS = 20


def page_faults(preload):
    """Minor faults of the process, the least of twenty runs: where things are mapped decides some."""
    least = float("inf")
    for _ in range(20):
        process = subprocess.Popen([PROGRAM], env=harness.environment(preload))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        least = min(least, usage.ru_minflt)
    return least


def system_calls(preload):
    with tempfile.NamedTemporaryFile("r") as calls:
        subprocess.run([harness.program("strace"), "-f", "-o", calls.name, "-E",
                        f"LD_PRELOAD={harness.LIBRARY if preload else ''}", PROGRAM],
                       env=harness.environment(False), check=True)
        return sum("(" in line for line in calls)


class StartUpTest(harness.PreloadTest):
    def test_a_preloaded_program_that_allocates_nothing_costs_hardly_more_than_an_empty_library(self):
        calls = system_calls(True) - system_calls(False)
        faults = page_faults(True) - page_faults(False)
        print(f"{calls} system calls, {faults} page faults ", end="", file=sys.stderr)
        self.assertGreater(calls, 0, "nothing was loaded")
        self.assertLessEqual(calls, SYSTEM_CALLS)
        self.assertLessEqual(faults, PAGE_FAULTS)


if __name__ == "__main__":
    harness.main()
