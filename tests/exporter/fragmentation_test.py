#!/usr/bin/env python3
"""What a person can act on: fragmentation by size class, the peak, purging; and what is slow."""

import time

from harness import *


class Fragmentation(unittest.TestCase):
    def start(self, **variables):
        program = Program(**UNSAMPLED, **variables)
        self.addCleanup(program.__exit__)
        return program.wait_for_endpoint()

    def slabs(self, scrape, **labels):
        return {dict(key[1])["occupancy"]: value
                for key, value in scrape.matching("hakmem_slabs_by_occupancy", **labels).items()}

    def test_slabs_by_occupancy_and_what_pins_them(self):
        program = self.start()
        program.do("alloc 0 40000 1000")  # 1,250 slabs of 32 objects
        full = program.scrape()
        slabs = self.slabs(full, size_class="1024")
        self.assertGreaterEqual(slabs["75-100"], 1249)
        self.assertLessEqual(slabs["0-25"] + slabs["25-50"], 2)
        self.assertLess(full.value("hakmem_compactable_bytes", size_class="1024"), MIB)
        program.do("free 0 2")
        half = program.scrape()
        self.assertGreater(self.slabs(half, size_class="1024")["25-50"], 1200)
        pinned = half.value("hakmem_pinned_bytes", size_class="1024")
        self.assertAlmostEqual(pinned, 20000 * 1024, delta=MIB)
        self.assertAlmostEqual(half.value("hakmem_compactable_bytes", size_class="1024"), 20000 * 1024, delta=MIB)
        # One object of each slab is left: of 1,250 slabs, forty would do.
        program.do("keep 0 32")
        few = program.scrape()
        self.assertGreater(self.slabs(few, size_class="1024")["0-25"], 1200)
        self.assertAlmostEqual(few.value("hakmem_compactable_bytes", size_class="1024"), 1210 * 32768, delta=MIB)

    def test_superslabs_by_occupancy(self):
        program = self.start()
        program.do("alloc 0 40000 1000")
        scrape = program.scrape()
        self.assertGreaterEqual(scrape.value("hakmem_superslabs_by_occupancy", occupancy="75-100"), 18)
        total = scrape.value("hakmem_superslabs_by_occupancy")
        self.assertEqual(total, scrape.value("hakmem_superslabs", state="full") + scrape.value("hakmem_superslabs", state="active"))

    def test_the_peak_is_kept(self):
        program = self.start()
        program.do("alloc 0 40000 1000")
        before = time.time()
        peak = program.scrape()
        self.assertLess(peak.value("hakmem_realized_fragmentation_ratio"), 0.15)
        live = peak.value("hakmem_peak_bytes", kind="live")
        self.assertAlmostEqual(live, 40000 * 1000, delta=2 * MIB)
        self.assertGreaterEqual(peak.value("hakmem_peak_bytes", kind="heap_resident"), live)
        at = peak.value("hakmem_peak_timestamp_seconds")
        self.assertLess(abs(at - before), 10)
        program.do("free 0 2")  # half of the heap is fragmented now, but that is no peak
        after = program.scrape()
        self.assertEqual(after.value("hakmem_peak_timestamp_seconds"), at)
        self.assertEqual(after.value("hakmem_peak_bytes", kind="live"), live)
        self.assertEqual(after.value("hakmem_realized_fragmentation_ratio"), peak.value("hakmem_realized_fragmentation_ratio"))
        program.do("alloc 1 30000 3000")  # a higher one, with the free blocks beside it
        higher = program.scrape()
        self.assertGreater(higher.value("hakmem_peak_timestamp_seconds"), at)
        self.assertGreater(higher.value("hakmem_realized_fragmentation_ratio"),
                           peak.value("hakmem_realized_fragmentation_ratio") + 0.05)

    def test_purging_that_ran_and_purging_that_cannot_help(self):
        program = self.start()
        program.do("alloc 0 100000 1000")
        program.do("free 0 2")
        pinned = program.scrape()
        self.assertFalse(pinned.matching("hakmem_last_purge_timestamp_seconds"), "it never ran")
        self.assertEqual(pinned.value("hakmem_purge_runs_total"), 0)
        self.assertEqual(pinned.value("hakmem_purge_backlog_bytes"), 0)
        self.assertGreater(pinned.value("hakmem_pinned_bytes"), 40 * MIB)
        self.assertGreaterEqual(pinned.value("hakmem_purge_hold_back_bytes"), 64 * MIB)
        program.do("free 0 1")
        program.do("trim")
        purged = program.scrape()
        self.assertLess(abs(purged.value("hakmem_last_purge_timestamp_seconds") - time.time()), 10)
        self.assertEqual(purged.value("hakmem_purge_backlog_bytes"), 0)
        self.assertLess(purged.value("hakmem_pinned_bytes"), 4 * MIB)


class WhatIsSlow(unittest.TestCase):
    def start(self, **variables):
        program = Program(**UNSAMPLED, **variables)
        self.addCleanup(program.__exit__)
        return program.wait_for_endpoint()

    def moved(self, program, command, name, **labels):
        before = program.scrape().value(name, **labels)
        program.do(command)
        return program.scrape().value(name, **labels) - before

    def test_pages_first_touched(self):
        program = self.start()
        touched = self.moved(program, "alloc 0 20000 1000", "hakmem_first_touched_pages_total")
        self.assertAlmostEqual(touched, 20000 / 4, delta=256)
        program.do("free 0 1")
        # What is retained still has its pages, but for what decayed since.
        self.assertLess(self.moved(program, "alloc 1 20000 1000", "hakmem_first_touched_pages_total"), touched / 2)

    def test_kernel_calls(self):
        program = self.start()
        for command, call, least in ((f"alloc 0 5 {8 * MIB}", "mprotect", 5), (f"alloc 2 1 {80 * MIB}", "mmap", 1),
                                     (f"realloc 0 {400 * MIB}", "mremap", 1), ("alloc 1 40000 1000", "mprotect", 18), ("free 0 1", "munmap", 1)):
            before = program.scrape()
            program.do(command)
            after = program.scrape()
            for name in ("hakmem_kernel_calls_total", "hakmem_kernel_call_seconds_total"):
                moved = after.value(name, call=call) - before.value(name, call=call)
                self.assertGreaterEqual(moved, least if "calls" in name else 1e-7, (command, name))
        program.do("free 1 1")
        self.assertGreater(self.moved(program, "trim", "hakmem_kernel_calls_total", call="madvise"), 0)

    def test_slow_calls_are_timed(self):
        program = self.start()
        timed = self.moved(program, "alloc 0 100000 1000", "hakmem_slow_call_seconds_count", call="malloc")
        refills = program.scrape().value("hakmem_refills_total", size_class="1024")
        self.assertAlmostEqual(timed, refills / 16, delta=refills / 64)
        self.assertGreater(program.scrape().value("hakmem_slow_call_seconds_sum", call="malloc"), 0)
        self.assertGreater(self.moved(program, "free 0 1", "hakmem_slow_call_seconds_count", call="free"), 10)

    def test_remote_queues(self):
        program = self.start()
        queues = lambda: [program.scrape().value(f"hakmem_remote_queue_{name}") for name in ("objects", "longest_objects")]
        program.do("alloc 0 4096 1000")
        self.assertEqual(queues(), [0, 0])
        # Blocks of a slab that its thread goes on to take from wait there until it looks: those of the half that it used.
        program.do("alloc 1 32 1000")
        program.do("thread_free 1 1")
        waiting, longest = queues()
        self.assertTrue(16 <= waiting <= 32, waiting)
        self.assertTrue(waiting / 2 <= longest <= waiting, longest)
        program.do("alloc 2 256 1000")
        self.assertEqual(queues(), [0, 0])

    def test_cpu_time(self):
        program = self.start()
        moved = self.moved(program, "churn 50", "hakmem_process_cpu_seconds_total")
        self.assertGreater(moved, 0.02)
        self.assertAlmostEqual(program.scrape().value("hakmem_process_cpu_seconds_total"), cpu_seconds(program.pid), delta=0.2)


if __name__ == "__main__":
    main()
