"""python3 under the preload prints what it prints without."""

import os
import subprocess

import endpoint
import harness

PYTHON = "/usr/bin/python3"
WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_workload.py")

# Grows by a step a line on stdin, shrinks by the next, forks by the third; small objects, lists and long strings.
GROWING = """
import os, sys, time
kept = []
for line in sys.stdin:
    match line.strip():
        case "grow": kept.append([({str(i): [i]}, "x" * (i % 5000)) for i in range(20000)])
        case "shrink": kept.pop(0)
        case "thin": kept[:] = [part[::3] for part in kept]
        case "fork":
            if os.fork() == 0:  # it grows for three seconds, while the parent goes on
                for step in range(30):
                    kept.append([bytes(i % 3000) for i in range(2000)])
                    time.sleep(0.1)
                os._exit(0)
    print("done", flush=True)
os.wait()
"""


class PythonTest(harness.PreloadTest):
    def check_workload(self, **variables):
        variables = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", **variables}
        status, output, errors = harness.run([PYTHON, WORKLOAD], False, variables=variables)
        self.assertEqual((0, b"mapped False\n"), (status, errors))
        preloaded = harness.run([PYTHON, WORKLOAD], True, variables=variables)
        self.assertEqual((0, output, b"mapped True\n"), preloaded)

    def test_workload(self):
        self.check_workload()

    def test_workload_with_all_objects_from_malloc(self):
        """Without Python's own small-object allocator every object is a block of ours."""
        self.check_workload(PYTHONMALLOC="malloc")

    def test_the_account_of_resident_memory_adds_up(self):
        """While the program grows, shrinks and forks, with Python's allocator of small objects and without."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        for number, allocator in enumerate(("pymalloc", "malloc")):
            port = harness.free_port()
            variables = {"HAKMEM_LISTEN": f"127.0.0.1:{port}", "HAKMEM_PAGES": self.directory(f"pages{number}"),
                         "PYTHONMALLOC": allocator}
            program = subprocess.Popen([PYTHON, "-c", GROWING], env=harness.environment(True, **variables), text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1)
            self.addCleanup(program.stdout.close)
            endpoint.wait_for(port)
            with endpoint.account_adds_up(self, port, 30 << 20, 2) as watch:
                for step in ["grow", "grow", "thin", "grow", "shrink", "fork", "grow", "shrink", "shrink"]:
                    program.stdin.write(step + "\n")
                    self.assertEqual("done\n", program.stdout.readline())
                harness.wait_until(lambda: len(watch.swings()) > 1, 20, "the child's page is shown")
            program.stdin.close()
            self.assertEqual(0, program.wait(timeout=20))

    def test_uncaught_exception_and_exit_status(self):
        self.check_same([PYTHON, "-c", "import sys; x = [0] * 10**6; sys.exit(41)"])
        self.check_same([PYTHON, "-c", "raise ValueError('v' * 1000)"])
        self.check_same([PYTHON, "-c", "bytearray(1 << 62)"])

    def test_killed_by_signal(self):
        self.check_same([PYTHON, "-c", "import os; os.kill(os.getpid(), 15)"])
        self.check_same([PYTHON, "-c", "import os; os.abort()"])


if __name__ == "__main__":
    harness.main()
