#!/usr/bin/env python3
"""Each series is moved by what it counts, by the amount where that is known."""

import os
import time

from harness import *


class Metrics(unittest.TestCase):
    def start(self, **variables):
        program = Program(**variables)
        self.addCleanup(program.__exit__)
        return program.wait_for_endpoint()

    def moved(self, program, commands, name, **labels):
        """How far a series moves by some commands."""
        before = program.scrape()
        start = before.value(name, **labels) if before.matching(name, **labels) else 0
        for command in commands:
            program.do(command)
        return program.scrape().value(name, **labels) - start

    def test_the_first_scrape_has_every_family_and_promtool_likes_it(self):
        program = self.start()
        program.do("alloc 0 1000 100")
        scrape = program.scrape()
        scrape.lint()
        catalogue = (ROOT / "allocator/metrics/catalogue.def").read_text(encoding="utf-8")
        names = set(re.findall(r'^HAKMEM_METRIC\(.*?"(hakmem_\w+)"', catalogue, flags=re.M))
        self.assertGreater(len(names), 40)
        # Nothing was purged yet, perhaps, and no call site keeps growing.
        absent = {f"hakmem_{name}" for name in ("last_purge_timestamp_seconds", "leak_suspect_bytes", "leak_suspect_age_seconds")}
        self.assertEqual(scrape.families() | absent, names)
        self.assertLessEqual(len(scrape.values), 2000)

    def test_refills_hand_out_what_the_program_allocates(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 10000 1000")
        scrape = program.scrape()
        objects = scrape.value("hakmem_refill_objects_total", size_class="1024")
        refills = scrape.value("hakmem_refills_total", size_class="1024")
        cached = scrape.value("hakmem_thread_cache_bytes") / 1024
        self.assertGreaterEqual(objects, 10000)
        self.assertLessEqual(objects, 10000 + cached + 64)
        self.assertGreater(refills, 10000 / 64 - 1, "a batch has at most 64 objects")
        self.assertGreater(scrape.value("hakmem_refills_total", size_class="1024", source="fresh_carve"), 0)
        self.assertGreater(scrape.value("hakmem_refills_total", size_class="1024", source="new_superslab"), 10000 / 64 - 2)
        self.assertEqual(scrape.value("hakmem_live_objects", size_class="1024"), 10000)
        self.assertEqual(scrape.value("hakmem_live_bytes", size_class="1024"), 10000 * 1024)

    def test_own_frees_are_collected_and_handed_out_again(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 10000 1000")
        program.do("free 0 2")
        self.assertEqual(program.scrape().value("hakmem_live_objects", size_class="1024"), 5000)
        for _ in range(2):  # what the endpoint itself keeps in its cache has settled then
            program.scrape()
        before = program.scrape()
        program.do("alloc 1 5000 1000")
        scrape = program.scrape()
        reused, cached = (scrape.value(name, **labels) - before.value(name, **labels) for name, labels in (
            ("hakmem_refill_objects_total", {"size_class": "1024"}), ("hakmem_thread_cache_bytes", {})))
        # What the refills handed out and what stood in the cache made these 5000.
        self.assertAlmostEqual(reused, 5000 + cached / 1024, delta=16)
        # A block in the thread's bin, or on its way from one thread to another, has not come back to its slab.
        self.assertAlmostEqual(scrape.value("hakmem_collected_objects_total", size_class="1024"), 5000, delta=256)
        self.assertGreater(scrape.value("hakmem_refills_total", size_class="1024", source="own_frees")
                           + scrape.value("hakmem_refills_total", size_class="1024", source="other_slab"), 0)
        self.assertEqual(scrape.value("hakmem_live_objects", size_class="1024"), 10000)

    def test_internal_fragmentation_is_what_was_not_asked_for(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 10000 1025")
        scrape = program.scrape()
        observed = scrape.value("hakmem_requests_observed_total", size_class="1152")
        self.assertEqual(scrape.value("hakmem_requested_bytes_observed_total", size_class="1152"), observed * 1025)
        lost = scrape.value("hakmem_size_class_fragmentation_bytes", size_class="1152", kind="internal")
        self.assertAlmostEqual(lost, 10000 * 127, delta=10000)
        total = scrape.value("hakmem_fragmentation_bytes", kind="internal")
        self.assertGreaterEqual(total, lost)
        self.assertGreater(scrape.value("hakmem_fragmentation_ratio", kind="internal"), 0.05)
        self.assertGreater(scrape.value("hakmem_size_class_fragmentation_ratio", size_class="1152", kind="internal"), 0.1)
        part = scrape.value("hakmem_resident_bytes", part="internal_fragmentation")
        self.assertAlmostEqual(part, total, delta=0.05 * total)

    def test_external_fragmentation_is_what_lies_free_in_slabs(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 40000 1000")
        before = program.scrape()
        self.assertGreater(before.value("hakmem_slab_occupancy_ratio", size_class="1024"), 0.99)
        program.do("free 0 2")
        scrape = program.scrape()
        self.assertAlmostEqual(scrape.value("hakmem_slab_occupancy_ratio", size_class="1024"), 0.5, delta=0.01)
        self.assertAlmostEqual(scrape.value("hakmem_size_class_fragmentation_ratio", size_class="1024", kind="external"),
                               0.5, delta=0.01)
        lost = scrape.value("hakmem_size_class_fragmentation_bytes", size_class="1024", kind="external")
        self.assertAlmostEqual(lost, 20000 * 1024, delta=MIB)
        self.assertAlmostEqual(scrape.value("hakmem_resident_bytes", part="slab_free"), lost, delta=2 * MIB)
        self.assertAlmostEqual(scrape.value("hakmem_resident_bytes", part="live"), 20000 * 1000, delta=2 * MIB)
        self.assertGreater(scrape.value("hakmem_fragmentation_ratio", kind="external"), 0.4)
        self.assertGreater(scrape.value("hakmem_fragmentation_bytes", kind="external"), lost * 0.95)
        slabs = scrape.value("hakmem_slabs", size_class="1024")
        self.assertEqual(scrape.value("hakmem_slab_bytes", size_class="1024"), slabs * 32768)

    def test_superslabs_are_counted_by_state_and_bytes(self):
        program = self.start(**UNSAMPLED)
        before = program.scrape()
        steps = {step: before.value("hakmem_superslab_refill_seconds_count", step=step)
                 for step in ("scan", "map", "metadata", "carve")}
        program.do("alloc 0 40000 1000")
        scrape = program.scrape()
        self.assertGreaterEqual(scrape.value("hakmem_superslabs", state="full"), 18)
        in_use = scrape.value("hakmem_superslab_bytes", kind="in_use")
        committed = scrape.value("hakmem_superslab_bytes", kind="committed")
        self.assertGreater(in_use, 40000 * 1000)
        self.assertLessEqual(in_use, committed)
        self.assertLessEqual(committed, scrape.value("hakmem_superslab_bytes", kind="reserved"))
        for step, count in steps.items():
            now = scrape.value("hakmem_superslab_refill_seconds_count", step=step)
            # One scan a slab of 32 objects, one map and metadata a superslab of 64 slabs.
            self.assertGreater(now - count, {"scan": 1200, "map": 18, "metadata": 18, "carve": 1200}[step], step)
            spent = scrape.value("hakmem_superslab_refill_seconds_sum", step=step)
            self.assertGreater(spent, 0, step)
            self.assertEqual(scrape.value("hakmem_superslab_refill_seconds_bucket", step=step, le="+Inf"), now)
        program.do("free 0 1")
        scrape = program.scrape()
        self.assertGreater(scrape.value("hakmem_slab_retirements_total"), 1000)
        program.do("trim")
        scrape = program.scrape()
        self.assertGreaterEqual(scrape.value("hakmem_superslabs", state="purged")
                                + scrape.value("hakmem_superslabs", state="active"), 18)
        self.assertEqual(scrape.value("hakmem_superslabs", state="empty"), 0)

    def test_purging_is_counted(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 20000 1000")
        program.do("free 0 1")
        before = program.scrape()
        held = before.value("hakmem_resident_bytes", part="retained") + before.value("hakmem_resident_bytes", part="empty_slab")
        program.do("trim")
        scrape = program.scrape()
        for name in ("hakmem_purge_runs_total", "hakmem_purged_bytes_total", "hakmem_purge_seconds_total"):
            self.assertGreater(scrape.value(name), before.value(name), name)
        purged = scrape.value("hakmem_purged_bytes_total") - before.value("hakmem_purged_bytes_total")
        left = scrape.value("hakmem_resident_bytes", part="retained")
        self.assertGreater(held, 16 * MIB)
        self.assertAlmostEqual(purged, held - left, delta=4 * MIB)
        self.assertLess(left, MIB)

    def test_frees_by_other_threads(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 10000 1000")
        before = program.scrape()
        program.do("thread_free 0 1")
        # A free is seen when its slab is next looked at: allocate until all were.
        program.do("alloc 1 20000 1000")
        scrape = program.scrape()
        claims = scrape.value("hakmem_slab_claims_total") - before.value("hakmem_slab_claims_total")
        remote = scrape.value("hakmem_remote_frees_total") - before.value("hakmem_remote_frees_total")
        self.assertGreater(claims, 0, "exhausted slabs are claimed by who frees into them")
        self.assertGreater(remote + claims * 64, 9000)
        self.assertEqual(scrape.value("hakmem_live_objects", size_class="1024"), 20000)

    def test_remote_frees_refill_their_owner(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 4096 1000")  # 64 slabs of 64 objects, so that the class has a row
        # Half a slab: it is current, so that its frees by others are remote.
        program.do("alloc 1 32 1000")
        before = program.scrape()
        program.do("thread_free 1 1")
        program.do("alloc 2 64 1000")
        scrape = program.scrape()
        self.assertGreater(scrape.value("hakmem_remote_frees_total"), before.value("hakmem_remote_frees_total"))
        self.assertGreater(scrape.value("hakmem_refills_total", size_class="1024", source="remote_frees"), 0)

    def test_slabs_of_ended_threads_are_adopted(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 4096 1000")
        program.do("thread_alloc 1 40 1000")
        before = program.scrape()
        self.assertGreater(before.value("hakmem_slabs", size_class="1024", state="pooled"), 0)
        self.assertEqual(before.value("hakmem_live_objects", size_class="1024"), 4136)
        program.do("alloc 2 200 1000")
        scrape = program.scrape()
        self.assertGreater(scrape.value("hakmem_slab_adoptions_total"), before.value("hakmem_slab_adoptions_total"))
        self.assertGreater(scrape.value("hakmem_refills_total", size_class="1024", source="other_slab"), 0)

    def test_threads(self):
        program = self.start()
        before = program.scrape()
        program.do("hold_threads 9")
        scrape = program.scrape()
        self.assertEqual(scrape.value("hakmem_threads") - before.value("hakmem_threads"), 9)
        self.assertEqual(scrape.value("hakmem_threads_started_total") - before.value("hakmem_threads_started_total"), 9)
        program.do("release_threads")
        self.assertEqual(program.scrape().value("hakmem_threads"), before.value("hakmem_threads"))

    def test_huge_allocations(self):
        program = self.start(**UNSAMPLED)
        before = program.scrape()
        program.do(f"alloc 0 3 {64 * MIB - 100}")
        scrape = program.scrape()
        self.assertEqual(scrape.value("hakmem_huge_allocations_total") - before.value("hakmem_huge_allocations_total"), 3)
        self.assertEqual(scrape.value("hakmem_huge_live_objects") - before.value("hakmem_huge_live_objects"), 3)
        self.assertEqual(scrape.value("hakmem_huge_live_bytes") - before.value("hakmem_huge_live_bytes"), 3 * 64 * MIB)
        self.assertEqual(scrape.value("hakmem_live_objects", size_class="huge"), scrape.value("hakmem_huge_live_objects"))
        self.assertEqual(scrape.value("hakmem_live_bytes", size_class="huge"), scrape.value("hakmem_huge_live_bytes"))
        lost = scrape.value("hakmem_size_class_fragmentation_bytes", size_class="huge", kind="internal")
        self.assertEqual(lost, 300)
        live = scrape.value("hakmem_resident_bytes", part="live") - before.value("hakmem_resident_bytes", part="live")
        self.assertAlmostEqual(live, 3 * 64 * MIB, delta=2 * MIB)
        self.assertEqual(self.moved(program, [f"realloc 0 {200 * MIB}"], "hakmem_huge_remaps_total"), 1)
        self.assertEqual(self.moved(program, ["free 0 1"], "hakmem_huge_frees_total"), 3)

    def test_large_allocations(self):
        program = self.start(**UNSAMPLED)
        program.do("alloc 0 10 600000")
        scrape = program.scrape()
        self.assertEqual(scrape.value("hakmem_live_objects", size_class="large"), 10)
        self.assertEqual(scrape.value("hakmem_slabs", size_class="large", state="large"), 10)
        self.assertEqual(scrape.value("hakmem_live_bytes", size_class="large"), 10 * 19 * 32768)
        self.assertEqual(scrape.value("hakmem_size_class_fragmentation_bytes", size_class="large", kind="internal"),
                         10 * (19 * 32768 - 600000))

    def test_samples_come_at_their_mean_interval(self):
        program = self.start(HAKMEM_SAMPLE_BYTES="16384")
        program.scrape()  # the first one allocates more than those that follow
        samples = self.moved(program, ["alloc 0 60000 1024"], "hakmem_samples_total")
        expected = 60000 * 1024 / 16384
        self.assertAlmostEqual(samples, expected, delta=5 * expected ** 0.5 + 0.05 * expected)
        self.assertGreater(program.scrape().value("hakmem_slabs", size_class="1024", state="sampled"), 0)

    def test_no_samples_where_sampling_is_off(self):
        program = self.start(**UNSAMPLED)
        self.assertEqual(self.moved(program, ["alloc 0 60000 1024"], "hakmem_samples_total"), 0)

    def test_memory_that_has_run_out(self):
        program = self.start()
        program.scrape()
        program.do(f"limit {4 << 30}")
        before = program.scrape().value("hakmem_out_of_memory_total")
        self.assertEqual(program.do(f"try {1 << 40}"), "null")
        self.assertEqual(program.scrape().value("hakmem_out_of_memory_total") - before, 1)

    def test_locks(self):
        program = self.start(**UNSAMPLED)
        before = program.scrape()
        program.do("alloc 0 40000 1000")
        program.do(f"alloc 1 2 {8 * MIB}")
        program.do("hold_threads 2")
        scrape = program.scrape()
        for lock, least in {"superslabs": 600, "huge": 2, "thread_registry": 2, "page_arena": 18}.items():
            moved = (scrape.value("hakmem_lock_acquisitions_total", lock=lock)
                     - before.value("hakmem_lock_acquisitions_total", lock=lock))
            self.assertGreaterEqual(moved, least, lock)
        for _ in range(20):
            program.do("contend")
            scrape = program.scrape()
            waits = scrape.value("hakmem_lock_waits_total", lock="huge")
            if waits > 0:
                break
        self.assertGreater(waits, 0)
        self.assertGreater(scrape.value("hakmem_lock_wait_seconds_total", lock="huge"), 0)
        self.assertLessEqual(waits, scrape.value("hakmem_lock_acquisitions_total", lock="huge"))

    def test_the_account_of_resident_memory(self):
        program = self.start()
        program.do("alloc 0 30000 1000")
        program.do("free 0 3")
        program.do(f"alloc 1 2 {20 * MIB}")
        before = program.scrape()
        program.do(f"map {50 * MIB}")
        scrape = program.scrape()
        outside = scrape.value("hakmem_resident_bytes", part="outside") - before.value("hakmem_resident_bytes", part="outside")
        self.assertAlmostEqual(outside, 50 * MIB, delta=MIB)
        total = scrape.value("hakmem_process_resident_bytes")
        unexplained = scrape.value("hakmem_resident_unexplained_bytes")
        self.assertAlmostEqual(scrape.value("hakmem_resident_bytes") + unexplained, total, delta=1)
        self.assertLess(abs(unexplained), 0.02 * total)
        with open(f"/proc/{program.pid}/smaps_rollup", encoding="utf-8") as file:
            exact = 1024 * int(re.search(r"Rss:\s+(\d+)", file.read()).group(1))
        self.assertAlmostEqual(total, exact, delta=2 * MIB)
        self.assertEqual(scrape.value("hakmem_heap_resident_bytes"),
                         scrape.value("hakmem_resident_bytes") - scrape.value("hakmem_resident_bytes", part="outside"))
        self.assertEqual(len(scrape.matching("hakmem_resident_bytes")), 9)
        for key, value in scrape.values.items():
            if key[0] != "hakmem_resident_unexplained_bytes":
                self.assertGreaterEqual(value, 0, key)
        self.assertGreater(scrape.value("hakmem_resident_bytes", part="metadata"), 0)
        self.assertGreater(scrape.value("hakmem_resident_bytes", part="telemetry"), 0)
        self.assertGreater(scrape.value("hakmem_resident_bytes", part="thread_cache"), 0)
        self.assertLess(abs(scrape.value("hakmem_published_timestamp_seconds") - time.time()), 5)

    def test_fifty_mebibytes_hidden_from_the_account_are_unexplained(self):
        program = self.start()
        program.do("alloc 0 30000 1000")
        before = program.scrape().value("hakmem_resident_unexplained_bytes")
        program.do(f"hide {50 * MIB}")
        unexplained = program.scrape().value("hakmem_resident_unexplained_bytes")
        self.assertAlmostEqual(unexplained - before, 50 * MIB, delta=MIB)

    def test_huge_pages_and_lazily_freed_memory_are_told_apart(self):
        program = self.start()
        program.do(f"map_huge_pages {8 * MIB}")
        program.do(f"free_lazily {6 * MIB}")
        # smaps_rollup is looked at when it is due.
        wait_until(lambda: program.scrape().value("hakmem_process_memory_bytes", state="huge_pages") > 0, "a look at them")
        scrape = program.scrape()
        self.assertAlmostEqual(scrape.value("hakmem_process_memory_bytes", state="huge_pages"), 8 * MIB, delta=2 * MIB)
        self.assertAlmostEqual(scrape.value("hakmem_process_memory_bytes", state="lazily_freed"), 6 * MIB, delta=MIB)
        self.assertGreaterEqual(scrape.value("hakmem_process_memory_bytes", state="swapped"), 0)
        plain = self.start()
        scrape = plain.scrape()
        self.assertEqual(scrape.value("hakmem_process_memory_bytes", state="huge_pages"), 0)
        self.assertEqual(scrape.value("hakmem_process_memory_bytes", state="lazily_freed"), 0)

    def test_the_cgroup_and_its_limit(self):
        cgroup = limited_cgroup(self, 256 * MIB)
        program = self.start()
        (cgroup / "cgroup.procs").write_text(str(program.pid))
        program.do("alloc 0 64000 1024")
        scrape = program.scrape()
        current, limit, distance, reclaimable = (
            scrape.value("hakmem_cgroup_memory_bytes", kind=kind) for kind in ("current", "limit", "distance", "reclaimable"))
        self.assertEqual(limit, 256 * MIB)
        self.assertAlmostEqual(current, 64 * MIB, delta=16 * MIB)
        self.assertEqual(distance, limit - current + reclaimable)
        program.process.kill()
        program.process.wait()

    def test_the_exporter_counts_itself(self):
        program = self.start()
        first = program.scrape()
        self.assertEqual(first.value("hakmem_exporter_scrapes_total"), 0)
        second = program.scrape()
        self.assertEqual(second.value("hakmem_exporter_scrapes_total"), 1)
        spent = second.value("hakmem_exporter_scrape_seconds_total")
        self.assertGreater(spent, 0)
        self.assertLess(spent, 1)
        memory = second.value("hakmem_exporter_memory_bytes")
        self.assertEqual(memory, second.value("hakmem_resident_bytes", part="telemetry"))
        self.assertGreater(memory, MIB)
        self.assertLess(memory, 16 * MIB)
        self.assertEqual(second.value("hakmem_build_info", build="telemetry"), 1)
        self.assertEqual(second.value("hakmem_exporter_pages"), 0)

    def figures_of_scrapes(self, **variables):
        """Live and resident bytes of the heap, and its superslabs, in 31 scrapes of a program at rest, after five that warm up."""
        program = self.start(**variables)
        for _ in range(5):
            program.scrape()
        scrapes = [program.scrape() for _ in range(31)]
        return [[scrape.value(f"hakmem_{name}") for scrape in scrapes]
                for name in ("live_bytes", "heap_resident_bytes", "superslabs")]

    def test_scraping_does_not_make_the_heap_grow(self):
        live, resident, _ = self.figures_of_scrapes(**UNSAMPLED)
        # An object of 112 bytes for each connection of a moment ago that is still being closed.
        self.assertLessEqual(max(live) - min(live), 4 * 112)
        self.assertEqual(1, len(set(resident)), resident)

    def test_sampling_while_scraped_makes_the_heap_grow_by_its_slabs_alone(self):
        live, resident, superslabs = self.figures_of_scrapes()
        # A class that gets a slab for samples gets a row; the first one to leave "other" makes SizeClassRows keep
        # what it had counted, once: 10904 bytes in a block of 11264.
        self.assertLessEqual(max(live) - min(live), 11264 + 4 * 112)
        # The slabs, and where they are the first in a superslab its huge page.
        self.assertLess(resident[-1] - resident[0], MIB // 2 + 2 * MIB * (superslabs[-1] - superslabs[0]))

    def test_many_size_classes_keep_to_their_rows(self):
        program = self.start(**UNSAMPLED)
        for index, size in enumerate(range(512, 60 * 512, 512)):
            program.do(f"alloc {index} {1 + (3 << 20) // size} {size}")
            if index % 8 == 0:
                program.scrape()  # no counter may fall meanwhile
        scrape = program.scrape()
        classes = {dict(key[1])["size_class"] for key in scrape.matching("hakmem_live_bytes")}
        self.assertIn("other", classes)
        self.assertGreater(len(classes), 20)
        self.assertLessEqual(len(classes), 25)
        self.assertLessEqual(len(scrape.values), 2000)
        scrape.lint()


if __name__ == "__main__":
    main()
