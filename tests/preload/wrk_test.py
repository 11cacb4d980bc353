"""nginx under the load of wrk, both under the preload: each answer is the file that was asked for."""

import os
import re

import harness
import nginx_test

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrk_script.lua")


class WrkTest(nginx_test.Nginx):
    def test_load(self):
        self.start()
        for connections in (4, 64):
            command = [harness.program("wrk"), "--threads", "3", "--connections", str(connections), "--duration", "5s",
                       "--timeout", "30s", "--script", SCRIPT, f"http://127.0.0.1:{self.port}",
                       "--", os.path.join(self.scratch, "files")]
            status, output, errors = harness.run(command, True)
            self.assertEqual((0, b""), (status, errors), output)
            right, wrong, failed = map(int, re.search(rb"right (\d+) wrong (\d+) errors (\d+)", output).groups())
            self.assertEqual((0, 0), (wrong, failed), output)
            self.assertGreater(right, 200)
        self.stop(generations=1)


if __name__ == "__main__":
    harness.main()
