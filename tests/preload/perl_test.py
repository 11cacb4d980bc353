"""perl under the preload prints what it prints without."""

import os

import harness

WORKLOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "perl_workload.pl")


class PerlTest(harness.PreloadTest):
    def test_workload(self):
        status, output, errors = self.check_same([harness.program("perl"), WORKLOAD],
                                                 variables={"PERL_HASH_SEED": "0", "PERL_DESTRUCT_LEVEL": "2"})
        self.assertEqual((17, b""), (status, errors))
        self.assertTrue(output.endswith(b"child 20\ncommand FROM A SHELL\n"), output[-200:])

    def test_die(self):
        self.check_same([harness.program("perl"), "-e", "my @x = (1) x 1e6; die 'the end'"])


if __name__ == "__main__":
    harness.main()
