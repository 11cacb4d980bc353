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


# Above what any process can have (PID_MAX_LIMIT of the kernel): the page is nobody else's.
YOUNG, OLD = 5_000_001, 5_000_002


def made_without_proc(page, pid, age, silent_for=0):
    """Writes a copy of a page as of a process that does not know its namespace and is so many seconds
    old, and in whose page nothing has changed for so many; its path."""
    start = int((time.clock_gettime(time.CLOCK_BOOTTIME) - age) * os.sysconf("SC_CLK_TCK"))
    data = bytearray(page.read_bytes())
    data[24:40] = struct.pack("<QQ", 0, start)
    data[48:52] = struct.pack("<I", pid)
    for offset in range(1024, len(data), 8):
        moment, = struct.unpack_from("<d", data, offset)
        if abs(moment - time.time()) < 1000:
            struct.pack_into("<d", data, offset, moment - silent_for)
    copy = page.with_name(f"hakmem.0.{pid}.{start}")
    copy.with_suffix(".new").write_bytes(data)
    os.utime(copy.with_suffix(".new"), (time.time() - silent_for,) * 2)
    copy.with_suffix(".new").rename(copy)
    return copy


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

    def test_by_itself_it_shows_processes_by_pid_from_a_minute_on(self):
        program = self.start(5000)
        made_without_proc(program.page(), YOUNG, age=50)
        made_without_proc(program.page(), OLD, age=61)
        exporter = MachineExporter(self.folder.name, young=None)
        self.addCleanup(exporter.stop)
        scrape = exporter.scrape()
        self.assertEqual(scrape.value("hakmem_exporter_pages"), 3)
        self.assertEqual({dict(labels).get("pid") for _, labels in scrape.values}, {"other", str(OLD), None})

    def test_a_process_that_cannot_be_looked_for_has_ended_when_it_was_silent_for_a_day(self):
        program = self.start(5000)
        wait_until(lambda: program.do("alloc 1 500 1000") and self.exporter.scrape().matching("hakmem_live_bytes"), "its figures")
        day = 24 * 3600
        made_without_proc(program.page(), YOUNG, age=0, silent_for=day - 60)
        silent = made_without_proc(program.page(), OLD, age=0, silent_for=day + 60)
        for _ in range(2):
            scrape = self.exporter.scrape()
            self.assertEqual({dict(labels).get("pid") for _, labels in scrape.matching("hakmem_live_bytes")},
                             {str(program.pid), str(YOUNG)})
            self.assertEqual(scrape.value("hakmem_refills_total", pid="other"), scrape.value("hakmem_refills_total", pid=str(YOUNG)))
        self.assertTrue(silent.exists(), "kept for a report, as that of an ended process")

    def test_what_sandboxes_leave_of_telemetry_is_shown(self):
        os.chmod(self.folder.name, 0o1777)
        sandboxes = {"no sockets": [built("tests/preload_without_sockets"), "kill"],
                     "ten descriptors": ["sh", "-c", 'ulimit -n 10; exec "$@"', "sh"]}
        if os.geteuid() == 0:
            sandboxes["another user"] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode == 0:
            sandboxes["a user namespace"] = ["unshare", "--user", "--map-root-user", "--ipc", "--uts"]
        for name, wrapper in sandboxes.items():
            program = Program(*wrapper, "/usr/bin/env", f"LD_PRELOAD={library()}", workload(), listen=False,
                              pages=self.folder.name, LD_PRELOAD="", HAKMEM_SAMPLE_BYTES="0")
            self.addCleanup(program.__exit__)
            program.do("alloc 0 5000 1000")
            refills = self.exporter.scrape().value("hakmem_refills_total", pid=str(program.pid), comm="exporter_worklo")
            self.assertGreater(refills, 5000 / 64 - 1, name)
            self.assertEqual((program.end(), program.error_text()), (0, ""), name)

    def test_a_process_of_a_unit_has_its_label(self):
        unit = f"hakmem-test-{os.getpid()}.service"
        cgroup = limited_cgroup(self, 256 * MIB, unit)
        program = self.start(10)
        self.addCleanup(program.process.wait)
        self.addCleanup(program.process.kill)
        (cgroup / "cgroup.procs").write_text(str(program.pid), encoding="ascii")
        program.do("alloc 1 5000 1000")
        scrape = self.exporter.scrape()
        self.assertGreater(scrape.value("hakmem_refills_total", pid=str(program.pid), unit=unit), 5000 / 64 - 1)

    def test_bad_pages_are_told_once_and_counted_and_harm_nobody(self):
        program = self.start(5000)
        page = pathlib.Path(next(pathlib.Path(self.folder.name).iterdir()))
        good = page.read_bytes()
        bad = own_page_name(page)  # of a living process, or it would be taken for one that ended
        counter = "hakmem_exporter_pages_skipped_total"
        cases = {"not_a_page": b"x" * 40000, "foreign_version": good[:8] + struct.pack("<I", 999) + good[12:],
                 "foreign_catalogue": good[:16] + b"\1" * 8 + good[24:], "damaged": good, "truncated": good[:20000]}
        for case, data in cases.items():
            problem = "damaged" if case == "truncated" else case
            before = self.exporter.scrape().value(counter, problem=problem)
            other = bad.with_suffix(".new")
            other.write_bytes(data)
            other.rename(bad)
            for scrapes in (1, 2, 3):
                scrape = self.exporter.scrape()
                self.assertEqual(scrape.value(counter, problem=problem), before + scrapes, case)
            self.assertEqual(self.exporter.told()[-1], f"hakmem: {bad} is left out: {problem}")
            self.assertEqual(scrape.value("hakmem_exporter_pages"), 1)
            self.assertTrue(scrape.matching("hakmem_refills_total", pid=str(program.pid)))
            scrape.lint()
            bad.unlink()
        os.mkfifo(bad)
        before = scrape.value(counter, problem="unreadable")
        scrape = self.exporter.scrape()
        self.assertEqual(scrape.value(counter, problem="unreadable"), before + 1)
        self.assertEqual(len(self.exporter.told()), len(cases) + 1)

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
