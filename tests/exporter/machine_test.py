#!/usr/bin/env python3
"""hakmem-exporter: all processes of a folder of pages, the ended ones, and pages that are none."""

import struct
import tempfile

from harness import *


def own_page_name(page):
    """The name of a page of this very process, in the namespace of another page."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        start = file.read().rpartition(")")[2].split()[19]
    return page.with_name(f"hakmem.{page.name.split('.')[1]}.{os.getpid()}.{start}")


class MachineExporter:
    """A running hakmem-exporter over a folder of its own."""

    def __init__(self, pages, young=0):
        self.port = free_port()
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{self.port}", "--pages", pages,
                                         "--young", str(young)],
                                        env=environment(preload=False), stderr=self.errors)
        wait_until(lambda: is_serving(self.port), "hakmem-exporter")

    def scrape(self, query=""):
        return Scrape(get(self.port, "/metrics" + query))

    def stop(self):
        self.process.terminate()
        status = self.process.wait(10)
        self.errors.close()
        return status


class Machine(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(self.folder.cleanup)
        self.exporter = MachineExporter(self.folder.name)
        self.addCleanup(lambda: self.exporter.process.poll() is None and self.exporter.stop())

    def start(self, objects, **variables):
        program = Program(listen=False, pages=self.folder.name, HAKMEM_SAMPLE_BYTES="0", **variables)
        self.addCleanup(program.__exit__)
        program.do(f"alloc 0 {objects} 1000")
        return program

    def test_every_process_is_shown_with_at_most_sixty_series(self):
        first, second = self.start(5000), self.start(10000)
        scrape = self.exporter.scrape()
        scrape.lint()
        self.assertEqual(scrape.value("hakmem_exporter_pages"), 2)
        for program, objects in ((first, 5000), (second, 10000)):
            pid = str(program.pid)
            series = [key for key in scrape.values if ("pid", pid) in key[1]]
            self.assertLessEqual(len(series), 60)
            self.assertGreater(len(series), 15)
            self.assertTrue(all(("comm", "exporter_worklo") in key[1] for key in series))
            self.assertGreater(scrape.value("hakmem_refills_total", pid=pid, size_class="all"), objects / 64 - 1)
            self.assertEqual(scrape.value("hakmem_build_info", pid=pid, build="telemetry"), 1)

    def test_one_process_in_full(self):
        first, second = self.start(5000), self.start(5000)
        scrape = self.exporter.scrape(f"?pid={first.pid}")
        scrape.lint()
        self.assertAlmostEqual(scrape.value("hakmem_refill_objects_total", pid=str(first.pid), size_class="1024"), 5000, delta=64)
        self.assertFalse(scrape.matching("hakmem_refill_objects_total", pid=str(second.pid)))

    def test_a_process_without_an_endpoint_measures_itself_once_a_second(self):
        program = self.start(5000)
        pid = str(program.pid)

        def published():
            program.do("alloc 1 200 1000")  # a transition
            found = self.exporter.scrape().matching("hakmem_published_timestamp_seconds", pid=pid)
            return found and next(iter(found.values()))

        first = wait_until(published, "the first figures")
        second = wait_until(lambda: (now := published()) and now != first and now, "the next figures")
        self.assertGreater(second - first, 0.9)
        scrape = self.exporter.scrape()
        self.assertGreater(scrape.value("hakmem_resident_bytes", pid=pid, part="live"), 4_000_000)
        self.assertLess(abs(second - time.time()), 10)

    def test_totals_of_ended_processes_stay(self):
        killed, ended = self.start(5000), self.start(10000)
        before = self.exporter.scrape()
        sums = {key: 0 for key in ("hakmem_refills_total", "hakmem_threads_started_total")}
        for name in sums:
            sums[name] = before.value(name)
        killed.process.kill()
        killed.process.wait()
        self.assertEqual(ended.end(), 0)
        after = self.exporter.scrape()
        after.lint()
        self.assertEqual(after.value("hakmem_exporter_pages"), 0)
        for name, value in sums.items():
            self.assertGreaterEqual(after.value(name, pid="other", comm="exporter_worklo"), value, name)
        pids = [name.split(".")[2] for name in os.listdir(self.folder.name)]
        self.assertEqual(pids, [str(killed.pid)], "the page of a killed process stays for a report")
        again = self.exporter.scrape()
        self.assertEqual(again.value("hakmem_refills_total", pid="other"), after.value("hakmem_refills_total", pid="other"))
        self.assertFalse(again.matching("hakmem_live_bytes"), "the dead hold nothing")

    def test_a_page_left_from_before_the_exporter_started_is_counted_once(self):
        program = self.start(5000)
        program.process.kill()
        program.process.wait()
        first = self.exporter.scrape()
        self.assertGreater(first.value("hakmem_refills_total", pid="other"), 5000 / 64 - 1)
        self.assertFalse(first.matching("hakmem_refills_total", pid=str(program.pid)))
        self.assertEqual(self.exporter.scrape().value("hakmem_refills_total", pid="other"),
                         first.value("hakmem_refills_total", pid="other"))

    def test_the_newest_pages_of_killed_processes_are_kept(self):
        program = self.start(5000)
        for _ in range(20):
            child = int(program.do(f"fork {2 << 20}"))
            wait_until(lambda: self.exporter.scrape().matching("hakmem_refills_total", pid=str(child)), "the child's page")
            program.do(f"reap {child}")
            newest = f".{child}."
        self.exporter.scrape()
        names = os.listdir(self.folder.name)
        self.assertEqual(len(names), 1 + 16)
        self.assertTrue([name for name in names if newest in name])

    def test_young_processes_are_shown_together_and_no_counter_ever_falls(self):
        exporter = MachineExporter(self.folder.name, young=2)
        self.addCleanup(exporter.stop)
        first, second = self.start(5000), self.start(10000)
        young = exporter.scrape()
        young.lint()
        self.assertEqual({dict(labels).get("pid") for _, labels in young.values}, {"other", None})
        refilled = young.value("hakmem_refills_total", pid="other", comm="exporter_worklo")
        self.assertGreaterEqual(refilled, 15000 / 64)
        self.assertFalse(young.matching("hakmem_fragmentation_ratio"), "ratios cannot be summed")
        last = young

        def scrape():
            nonlocal last
            now = exporter.scrape()
            for key, value in counters_of(last).items():
                if dict(key[1]).get("pid") in (None, "other"):
                    self.assertGreaterEqual(now.values.get(key, -1), value, key)
            last = now
            return now

        wait_until(lambda: first.do("alloc 1 500 1000") and scrape().matching("hakmem_refills_total", pid=str(first.pid)), "a series by pid")
        self.assertGreaterEqual(last.value("hakmem_refills_total", comm="exporter_worklo"), refilled, "all together")
        full = exporter.scrape(f"?pid={second.pid}")
        self.assertAlmostEqual(full.value("hakmem_refill_objects_total", pid=str(second.pid), size_class="1024"), 10000,
                               delta=64)
        everything = scrape().value("hakmem_refills_total", comm="exporter_worklo")
        for program in (first, second):
            program.process.kill()
            program.process.wait()
        scrape().lint()
        self.assertEqual({dict(labels).get("pid") for _, labels in last.values}, {"other", None})
        self.assertGreaterEqual(last.value("hakmem_refills_total", comm="exporter_worklo"), everything)
        self.assertLess(last.value("hakmem_refills_total", comm="exporter_worklo"), everything * 1.2, "counted once")

    def test_a_file_that_is_no_page_is_told_once(self):
        program = self.start(5000)
        bad = own_page_name(next(pathlib.Path(self.folder.name).iterdir()))
        bad.write_bytes(b"x" * 40000)
        for _ in range(3):
            self.exporter.scrape()
        self.exporter.errors.seek(0)
        told = [line for line in self.exporter.errors.read().decode().splitlines() if "left out" in line]
        self.assertEqual(told, [f"hakmem: {bad} is left out: not_a_page"])
        self.assertIsNone(program.process.poll())

    def test_processes_of_two_containers_with_one_pid_and_name_are_told_apart(self):
        program = self.start(5000)
        page = pathlib.Path(next(pathlib.Path(self.folder.name).iterdir()))
        namespace, pid, start = page.name.split(".")[1:]
        data = bytearray(page.read_bytes())
        data[24:32] = struct.pack("<Q", 12345)  # Identity::pid_namespace
        other = page.with_name(f"hakmem.12345.{pid}.{start}")
        other.write_bytes(data)
        scrape = self.exporter.scrape()
        scrape.lint()
        for name in (f"{namespace}.{pid}.{start}", f"12345.{pid}.{start}"):
            self.assertTrue(scrape.matching("hakmem_build_info", pid=name, comm="exporter_worklo"), name)
        self.assertFalse(scrape.matching("hakmem_build_info", pid=pid))
        other.unlink()
        self.assertTrue(self.exporter.scrape().matching("hakmem_build_info", pid=str(program.pid)))

    def test_bad_pages_are_counted_and_harm_nobody(self):
        program = self.start(5000)
        page = pathlib.Path(next(pathlib.Path(self.folder.name).iterdir()))
        good = page.read_bytes()
        bad = own_page_name(page)  # of a living process, or it would be taken for one that ended
        cases = {"not_a_page": b"x" * 40000, "foreign_version": good[:8] + struct.pack("<I", 999) + good[12:],
                 "foreign_catalogue": good[:16] + b"\1" * 8 + good[24:], "damaged": good}
        for problem, data in cases.items():
            before = self.exporter.scrape().value("hakmem_exporter_pages_skipped_total", problem=problem)
            bad.write_bytes(data)
            scrape = self.exporter.scrape()
            self.assertEqual(scrape.value("hakmem_exporter_pages_skipped_total", problem=problem), before + 1, problem)
            self.assertEqual(scrape.value("hakmem_exporter_pages"), 1)
            self.assertTrue(scrape.matching("hakmem_live_bytes", pid=str(program.pid))
                            or scrape.matching("hakmem_refills_total", pid=str(program.pid)))
            scrape.lint()
        bad.unlink()
        before = self.exporter.scrape().value("hakmem_exporter_pages_skipped_total", problem="unreadable")
        os.mkfifo(bad)
        scrape = self.exporter.scrape()
        self.assertEqual(scrape.value("hakmem_exporter_pages_skipped_total", problem="unreadable"), before + 1)

    def test_truncating_a_page_while_it_is_read_does_not_end_the_exporter(self):
        program = self.start(5000)
        page = next(pathlib.Path(self.folder.name).iterdir())
        self.exporter.scrape()
        copy = page.read_bytes()
        fake = own_page_name(page)
        for length in (0, 10, 500, 4096, 20000):
            fake.write_bytes(copy[:length])
            self.exporter.scrape()
        self.assertIsNone(self.exporter.process.poll())
        self.assertTrue(self.exporter.scrape().matching("hakmem_refills_total", pid=str(program.pid)))

    def test_an_exec_is_another_program_in_the_same_process(self):
        program = Program("bash", "-c", f"x=$(head -c 3000000 /dev/zero | tr '\\0' a); read -r; exec {workload()}",
                          listen=False, pages=self.folder.name)
        self.addCleanup(program.__exit__)
        wait_until(lambda: self.exporter.scrape().matching("hakmem_refills_total", comm="bash", pid=str(program.pid)),
                   "bash's page")
        program.process.stdin.write("\n")
        program.do("alloc 0 5000 1000")
        scrape = self.exporter.scrape()
        self.assertTrue(scrape.matching("hakmem_refills_total", comm="exporter_worklo", pid=str(program.pid)))
        self.assertFalse(scrape.matching("hakmem_refills_total", comm="bash", pid=str(program.pid)))
        self.assertTrue(scrape.matching("hakmem_refills_total", comm="bash", pid="other"))

    def test_it_ends_when_told_to(self):
        self.assertEqual(self.exporter.stop(), 0)

    def test_wrong_uses(self):
        for arguments, status in (([], 2), (["--listen"], 2), (["--listen", "nonsense"], 2), (["--verbose", "1"], 2),
                                  (["--listen", f"127.0.0.1:{self.exporter.port}"], 1)):
            result = subprocess.run([built("hakmem-exporter"), *arguments], env=environment(preload=False),
                                    capture_output=True, text=True, timeout=20, check=False)
            self.assertEqual(result.returncode, status, arguments)
            self.assertTrue(result.stderr)


if __name__ == "__main__":
    main()
