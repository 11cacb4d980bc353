"""stress-ng's stressors of memory and processes, which check what they read, do all their rounds under the preload."""

import re

import harness

# Rounds of two processes, and options. Not brk, whose program break moves only where malloc uses it, too.
STRESSORS = (
    ("malloc", 20000), ("malloc", 20000, "--malloc-bytes", "512k", "--malloc-touch", "--malloc-zerofree"),
    ("malloc", 20000, "--malloc-pthreads", "3"), ("malloc", 20000, "--malloc-thresh", "4096"),
    ("bigheap", 2000), ("env", 10), ("resources", 20), ("vm", 20000), ("vm-rw", 100), ("vm-segv", 200),
    ("mremap", 10), ("mlock", 50), ("memthrash", 20), ("memcpy", 100), ("bad-altstack", 100), ("pthread", 2000),
    ("fork", 500), ("bsearch", 100), ("heapsort", 5), ("hsearch", 1000), ("judy", 5), ("list", 50), ("lsearch", 5),
    ("matrix", 500), ("mergesort", 10), ("qsort", 5), ("radixsort", 5), ("randlist", 2), ("skiplist", 200),
    ("sparsematrix", 5), ("tree", 2), ("tsearch", 5), ("zlib", 20),
)


class StressNgTest(harness.PreloadTest):
    def check(self, name, count, *options):
        """All rounds are done, and a few more where the processes see it late; nothing is found wrong."""
        status, output, errors = harness.run(
            [harness.program("stress-ng"), f"--{name}", "2", f"--{name}-ops", str(count), *options, "--verify",
             "--metrics-brief", "--timeout", "120", "--temp-path", self.scratch], True, timeout=200)
        text = (output + errors).decode(errors="replace")
        self.assertEqual(0, status, text)
        self.assertIn("successful run completed", text)
        self.check_quiet(text)
        self.assertNotRegex(text, "(?m)^stress-ng: (fail|error|warn)")
        rounds = int(re.search(rf"(?m)metrc: \[\d+\] {name} +(\d+)( +[\d.]+){{5}}$", text).group(1))
        self.assertGreaterEqual(rounds, count, text)

    def test_stressors(self):
        for stressor in STRESSORS:
            with self.subTest(stressor=stressor):
                self.check(*stressor)


if __name__ == "__main__":
    harness.main()
