"""bash and the small programs that it starts, all of them preloaded."""

import os

import harness

WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bash_workload.sh")


class BashTest(harness.PreloadTest):
    def test_workload(self):
        status, output, _ = self.check_same([harness.program("bash"), "--norc", WORKLOAD])
        self.assertEqual(23, status)
        self.assertIn(b"total 60300\n", output)
        # The writer of a closed pipe ends by SIGPIPE: nobody has changed its disposition.
        self.assertIn(b"pipe statuses 141 0\n", output)

    def test_children_are_preloaded(self):
        status, output, errors = harness.run(
            [harness.program("bash"), "--norc", "-c", "for i in 1 2 3; do grep -c libhakmem /proc/self/maps; done"], True)
        self.assertEqual((0, b""), (status, errors))
        self.assertTrue(all(int(line) > 0 for line in output.split()), output)
        self.assertEqual(3, len(output.split()))


if __name__ == "__main__":
    harness.main()
