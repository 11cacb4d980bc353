"""python3 under the preload prints what it prints without."""

import os

import harness

PYTHON = "/usr/bin/python3"
WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_workload.py")


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

    def test_uncaught_exception_and_exit_status(self):
        self.check_same([PYTHON, "-c", "import sys; x = [0] * 10**6; sys.exit(41)"])
        self.check_same([PYTHON, "-c", "raise ValueError('v' * 1000)"])
        self.check_same([PYTHON, "-c", "bytearray(1 << 62)"])

    def test_killed_by_signal(self):
        self.check_same([PYTHON, "-c", "import os; os.kill(os.getpid(), 15)"])
        self.check_same([PYTHON, "-c", "import os; os.abort()"])


if __name__ == "__main__":
    harness.main()
