#!/usr/bin/env python3
"""Swapped memory is told apart, in a series, a finding and a report; meanwhile the machine has one more swap file."""

import tempfile

from harness import *

SWAPPED = 40 * MIB


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@unittest.skipUnless(os.geteuid() == 0, "only root adds swap")
class Swap(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/var/tmp")
        self.addCleanup(folder.cleanup)
        file = os.path.join(folder.name, "swap")
        with open(file, "wb") as content:
            os.fchmod(content.fileno(), 0o600)
            os.posix_fallocate(content.fileno(), 0, 2 * SWAPPED)
        self.assertEqual(run("mkswap", file).returncode, 0)
        # Before all others, so that only what is swapped out here is likely to go there.
        if (added := run("swapon", "--priority", "32767", file)).returncode:
            self.skipTest(f"no swap can be added here: {added.stderr}")
        self.addCleanup(lambda: self.assertEqual(run("swapoff", file).returncode, 0))

    def test_swapped_memory(self):
        with Program(**UNSAMPLED) as program:
            program.wait_for_endpoint()
            shown = lambda: program.scrape().value("hakmem_process_memory_bytes", state="swapped")
            before = shown()
            program.do(f"swap_out {SWAPPED}")
            wait_until(lambda: shown() > before + SWAPPED // 2, "a look at it")
            # What is young in the kernel's eyes may stay.
            self.assertAlmostEqual(shown() - before, SWAPPED, delta=4 * MIB)
            scrape = program.scrape()
            self.assertLess(scrape.value("hakmem_process_resident_bytes"), SWAPPED)
            self.assertEqual(scrape.value("hakmem_diagnosis", finding="swap"), 1)
            unexplained = scrape.value("hakmem_resident_unexplained_bytes")
            self.assertLess(abs(unexplained), MIB)
            report = subprocess.run([built("hakmem"), "report", str(program.pid)], env=environment(preload=False),
                                    capture_output=True, text=True, timeout=30, check=True).stdout
            self.assertRegex(report, r"\n  beside it, swapped +(3[6-9]|4\d)\.\d MiB\n")
            self.assertIn("\n  swap: More than a twentieth", report)
        with Program(**UNSAMPLED) as plain:
            plain.wait_for_endpoint()
            scrape = plain.scrape()
            self.assertEqual(scrape.value("hakmem_process_memory_bytes", state="swapped"), 0)
            self.assertEqual(scrape.value("hakmem_diagnosis", finding="swap"), 0)


if __name__ == "__main__":
    main()
