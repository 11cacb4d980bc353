#!/usr/bin/env python3
"""Each finding of hakmem_diagnosis holds in a program that causes it, and not in one that does not."""

import time

from harness import *

FINDINGS = set(re.findall(r'^HAKMEM_FINDING\(k\w+, "(\w+)"', (ROOT / "allocator/metrics/findings.def").read_text(encoding="utf-8"),
                          flags=re.M))


class Diagnosis(unittest.TestCase):
    def start(self):
        program = Program(**UNSAMPLED)
        self.addCleanup(program.__exit__)
        return program.wait_for_endpoint()

    def findings(self, program):
        """The findings that hold."""
        found = program.scrape().matching("hakmem_diagnosis")
        shown = {dict(key[1])["finding"]: value for key, value in found.items()}
        self.assertEqual(set(shown), FINDINGS)
        self.assertLessEqual(set(shown.values()), {0, 1})
        return {finding for finding, value in shown.items() if value == 1}

    def check(self, finding, commands, others=frozenset()):
        """The commands cause a finding, and only those `others` that come with it."""
        program = self.start()
        self.assertNotIn(finding, self.findings(program))
        for command in commands:
            program.do(command)
        found = self.findings(program)
        self.assertIn(finding, found)
        self.assertLessEqual(found, {finding} | set(others))
        return program

    def test_a_program_that_uses_its_memory_well_has_none(self):
        program = self.start()
        program.do("alloc 0 120000 1000")
        # The memory is new: that new slabs take a share of the little CPU time is true.
        self.assertLessEqual(self.findings(program), {"refill_dominates"})
        if "[never]" not in pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii"):
            # The heap asks for huge pages and fills them. The kernel is asked about them seldom.
            huge = lambda: program.scrape().value("hakmem_process_memory_bytes", state="huge_pages")
            wait_until(lambda: huge() > 80 * MIB, "the next look at huge pages")
            self.assertNotIn("huge_pages_inflate", self.findings(program))

    def test_external_fragmentation_until_it_is_gone(self):
        program = self.check("external_fragmentation", ["alloc 0 120000 1000", "free 0 2"], {"refill_dominates"})
        result = subprocess.run([built("hakmem"), "report", str(program.pid)], env=environment(preload=False),
                                capture_output=True, text=True, timeout=30, check=True)
        self.assertRegex(result.stdout, r"\nFindings\n(.*\n)?  external_fragmentation: More than a quarter")
        program.do("free 0 1")
        self.assertNotIn("external_fragmentation", self.findings(program))

    def test_internal_fragmentation(self):
        program = self.check("internal_fragmentation", ["alloc 0 1400000 17"], {"refill_dominates"})
        program.do("free 0 1")
        self.assertNotIn("internal_fragmentation", self.findings(program))
        program.do("alloc 0 1400000 32")
        self.assertNotIn("internal_fragmentation", self.findings(program))

    def test_retained_memory_until_it_is_trimmed(self):
        program = self.start()
        program.do("alloc 0 29000 1000")
        program.do("free 0 1")
        self.assertNotIn("retained_not_purged", self.findings(program), "it was freed just now")
        time.sleep(5.2)
        self.assertIn("retained_not_purged", self.findings(program))
        program.do("trim")
        self.assertNotIn("retained_not_purged", self.findings(program))

    def test_thread_caches_until_the_threads_end(self):
        # Of a bin that is full half goes back to slabs of the thread's own, which others do not allocate from.
        program = self.check("thread_cache_heavy", ["hold_caches 24"], {"refill_dominates", "external_fragmentation"})
        program.do("release_threads")
        self.assertNotIn("thread_cache_heavy", self.findings(program))

    def test_near_the_limit_of_the_cgroup(self):
        cgroup = limited_cgroup(self, 256 * MIB)
        program = self.start()
        (cgroup / "cgroup.procs").write_text(str(program.pid))
        self.addCleanup(program.process.wait)
        self.addCleanup(program.process.kill)
        program.do("alloc 0 120000 1024")
        self.assertNotIn("near_cgroup_limit", self.findings(program))
        program.do("alloc 1 122000 1024")
        self.assertIn("near_cgroup_limit", self.findings(program))

    def test_memory_that_is_not_of_malloc(self):
        self.check("outside_dominates", [f"map {100 * MIB}"])

    def test_new_slabs_take_most_of_the_time(self):
        self.check("refill_dominates", ["churn 100"])

    def test_objects_that_another_thread_frees(self):
        self.check("remote_free_storm", ["pass_on 300"], {"refill_dominates"})

    def test_huge_pages(self):
        program = self.start()
        self.assertNotIn("huge_pages_inflate", self.findings(program))
        program.do(f"map_huge_pages {100 * MIB}")
        wait_until(lambda: self.findings(program) == {"huge_pages_inflate", "outside_dominates"}, "the next look at them")


if __name__ == "__main__":
    main()
