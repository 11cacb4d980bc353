#!/usr/bin/env python3
"""Stats pages in a folder that everybody may write to: nobody else reads them, makes them, or is harmed by them."""

import stat
import tempfile

from harness import *


class MachineExporter:
    """hakmem-exporter over a folder."""

    def __init__(self, pages):
        self.port = free_port()
        self.process = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{self.port}", "--pages", pages,
                                         "--young", "0"], env=environment(preload=False), stderr=subprocess.DEVNULL)

    def __enter__(self):
        wait_until(lambda: is_serving(self.port), "hakmem-exporter")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)


class Pages(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(self.folder.cleanup)
        os.chmod(self.folder.name, 0o1777)

    def page_of(self, pid):
        namespace = os.stat("/proc/self/ns/pid").st_ino
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            start = file.read().rpartition(")")[2].split()[19]
        return pathlib.Path(self.folder.name, f"hakmem.{namespace}.{pid}.{start}")

    def test_the_mode_whatever_the_mask(self):
        old = os.umask(0)
        try:
            with Program(listen=False, pages=self.folder.name) as program:
                program.do("alloc 0 5000 1000")
                self.assertEqual(stat.S_IMODE(program.page().stat().st_mode), 0o600)
        finally:
            os.umask(old)

    def test_a_link_under_its_name_is_not_followed(self):
        victim = pathlib.Path(self.folder.name, "victim")
        for plant in (os.symlink, os.link):
            victim.write_text("of somebody else")
            with Program(listen=False, pages=self.folder.name) as program:
                program.do("try 1")
                plant(victim, self.page_of(program.pid))
                program.do("alloc 0 5000 1000")
                page = program.page().lstat()
                self.assertTrue(stat.S_ISREG(page.st_mode))
                self.assertNotEqual(page.st_ino, victim.stat().st_ino)
            self.assertEqual(victim.read_text(), "of somebody else")

    def test_the_file_of_another_user_is_left_alone(self):
        if os.geteuid() != 0:
            self.skipTest("only root changes the user")
        command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", f"LD_PRELOAD={library()}", workload()]
        with Program(*command, listen=False, pages=self.folder.name, LD_PRELOAD="") as program:
            program.do("try 1")
            page = self.page_of(program.pid)
            page.write_text("of root")
            page.chmod(0o666)
            program.do("alloc 0 5000 1000")
            self.assertEqual(program.end(), 0)
            self.assertEqual(lines(program.error_text()),
                             [f"hakmem: no stats page in {self.folder.name}: a file of another user has the name of its page; "
                              "hakmem-exporter does not see this process"])
            self.assertEqual(page.read_text(), "of root")

    def test_a_page_that_another_user_made_for_a_process_is_not_shown(self):
        if os.geteuid() != 0:
            self.skipTest("only root makes files of others")
        with Program(listen=False, pages=self.folder.name) as program, MachineExporter(self.folder.name) as exporter:
            program.do("alloc 0 5000 1000")
            page = program.page()
            data = page.read_bytes()
            page.unlink()
            for owner, mode, shown in ((65534, 0o644, False), (0, 0o666, False), (0, 0o600, True)):
                page.write_bytes(data)
                os.chown(page, owner, owner)
                page.chmod(mode)
                scrape = Scrape(get(exporter.port))
                self.assertEqual(scrape.value("hakmem_exporter_pages"), int(shown), (owner, mode))
                self.assertEqual(bool(scrape.matching("hakmem_refills_total", pid=str(program.pid))), shown)
                report = subprocess.run([built("hakmem"), "report", str(program.pid)], capture_output=True, text=True, timeout=20,
                                        env=environment(preload=False, HAKMEM_PAGES=self.folder.name), check=False)
                self.assertEqual(report.returncode == 0, shown, report)
                page.unlink()
            self.assertEqual(scrape.value("hakmem_exporter_pages_skipped_total", problem="foreign_owner"), 2)

    def test_a_program_with_the_rights_of_another_publishes_nothing(self):
        """Preloading is the loader's to refuse; this one is linked with the library."""
        if os.geteuid() != 0:
            self.skipTest("only root makes a set-user-id program of another")
        program = pathlib.Path(built("tests/exporter_workload_linked"))
        with tempfile.TemporaryDirectory(dir=program.parent) as folder:
            os.chmod(folder, 0o755)
            for name, set_user_id in (("plain", False), ("set", True)):
                copy = pathlib.Path(folder, name)
                copy.write_bytes(program.read_bytes())
                os.chown(copy, 65534, 65534)
                copy.chmod(0o4755 if set_user_id else 0o755)
                with Program(str(copy), LD_PRELOAD="") as running:
                    running.do("alloc 0 20000 1000")
                    with open(f"/proc/{running.pid}/maps", encoding="utf-8") as maps:
                        self.assertIn("libhakmem-telemetry", maps.read())
                    time.sleep(1.5)
                    found = [*pathlib.Path("/dev/shm").glob(f"hakmem.*.{running.pid}.*")]
                    self.assertEqual((bool(found), is_serving(running.port)), (not set_user_id, not set_user_id), name)
                    self.assertEqual(running.error_text(), "")


if __name__ == "__main__":
    main()
