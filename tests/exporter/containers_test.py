#!/usr/bin/env python3
"""hakmem-exporter and hakmem on the machine, of processes in containers."""

import resource
import tempfile

from harness import *


class Containers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(self.folder.cleanup)
        self.exporter = MachineExporter(self.folder.name)
        self.addCleanup(self.exporter.stop)

    def contained(self, *wrapper, pages=None, listen=False):
        """A program in a pid namespace of its own, whose process 1 it is; with its pid here."""
        command = ["unshare", "--pid", "--fork", "--kill-child", *wrapper]
        if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
            self.skipTest("no pid namespace can be had here")
        program = Program(*command, "env", f"LD_PRELOAD={library()}", workload(), listen=listen,
                          pages=pages or self.folder.name, LD_PRELOAD="", HAKMEM_SAMPLE_BYTES="0")
        self.addCleanup(program.__exit__)
        program.do("try 1")
        with open(f"/proc/{program.pid}/task/{program.pid}/children", encoding="ascii") as children:
            return program, int(children.read())

    def test_a_profile_is_that_of_the_process_and_not_of_one_that_has_its_address_here(self):
        up = ("import fcntl, os, socket, struct, sys; "
              "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49)); os.execvp(sys.argv[1], sys.argv[1:])")
        program, pid = self.contained("--mount-proc", "--net", sys.executable, "-c", up, listen=True)
        command = [built("hakmem"), "profile", str(pid), "-o", os.path.join(self.folder.name, "profile")]
        run = lambda *wrapper: subprocess.run([*wrapper, *command], env=environment(preload=False), capture_output=True, text=True,
                                              timeout=60, check=False)
        with socket.create_server(("127.0.0.1", program.port)) as beside:
            beside.setblocking(False)
            wait_until(lambda: run().returncode == 0, "a profile")
            result = run("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
            self.assertEqual(result.returncode, 2)
            self.assertEqual(lines(result.stderr), [f"hakmem: process {pid} has a network of its own, as in a container, and cannot be "
                                                    "asked: Operation not permitted"])
            with self.assertRaises(BlockingIOError):
                beside.accept()

    def test_processes_of_two_containers_with_one_pid_and_name_are_told_apart(self):
        for program, _ in (self.contained("--mount-proc"), self.contained("--mount-proc")):
            program.do("alloc 0 5000 1000")
        names = {name.removeprefix("hakmem.") for name in os.listdir(self.folder.name)}
        self.assertEqual([name.split(".")[1] for name in names], ["1", "1"])
        scrape = self.exporter.scrape()
        scrape.lint()
        shown = scrape.matching("hakmem_build_info", comm="exporter_worklo")
        self.assertEqual({dict(labels)["pid"] for _, labels in shown}, names)

    def test_one_that_comes_while_descriptors_run_out_is_not_taken_for_ended(self):
        """It is looked for in /proc, of which nothing can be read."""
        exporter = self.exporter.process.pid
        self.exporter.scrape()
        held = len([fd for fd in os.listdir(f"/proc/{exporter}/fd") if int(fd) < 60])  # its sockets stand above
        limits = resource.prlimit(exporter, resource.RLIMIT_NOFILE)
        for left in range(2, 7):
            # One each is kept open, of the page of the last.
            resource.prlimit(exporter, resource.RLIMIT_NOFILE, (held + left, limits[1]))
            program, _ = self.contained()
            program.do("alloc 0 5000 1000")
            for _ in range(2):
                self.exporter.scrape()
            resource.prlimit(exporter, resource.RLIMIT_NOFILE, limits)
            scrape = self.exporter.scrape()
            self.assertEqual(scrape.value("hakmem_exporter_pages"), left - 1, f"{left} descriptors left")
            held += 1

    def test_a_process_of_a_container_has_its_label_and_its_end_is_seen(self):
        identifier = os.urandom(32).hex()
        container = identifier[:12]
        cgroup = limited_cgroup(self, 256 * MIB, f"docker-{identifier}.scope")
        # In the second one /proc is that of the machine.
        for wrapper, objects in ((["--mount-proc"], 5000), ([], 10000)):
            program, pid = self.contained(*wrapper)
            (cgroup / "cgroup.procs").write_text(str(pid), encoding="ascii")
            program.do(f"alloc 0 {objects} 1000")
            scrape = self.exporter.scrape()
            refills = scrape.value("hakmem_refills_total", pid="1", comm="exporter_worklo", container=container)
            self.assertGreater(refills, objects / 64 - 1)
            self.assertEqual(scrape.value("hakmem_exporter_pages"), 1)
            full = self.exporter.scrape(f"?pid={pid}")
            self.assertTrue(full.matching("hakmem_refill_objects_total", pid="1", size_class="1024"))
            self.assertFalse(self.exporter.scrape("?pid=1").matching("hakmem_refill_objects_total", size_class="1024"),
                             "every container has a process 1")
            # By the pid that it has here.
            for command, told in ((["report", str(pid)], "(pid 1), hakmem"), (["check", str(pid)], "/hakmem."),
                                  (["top", "--once"], f"{pid} exporter_worklo")):
                result = subprocess.run([built("hakmem"), *command], capture_output=True, text=True, timeout=20, check=False,
                                        env=environment(preload=False, HAKMEM_PAGES=self.folder.name))
                self.assertEqual((result.returncode, result.stderr), (0, ""), command)
                self.assertIn(told, result.stdout)
            os.kill(pid, signal.SIGKILL)
            program.process.wait()
            ended = self.exporter.scrape()
            self.assertEqual(ended.value("hakmem_exporter_pages"), 0)
            self.assertFalse(ended.matching("hakmem_live_bytes"), "the dead hold nothing")
            self.assertFalse(ended.matching("hakmem_refills_total", pid="1"))
        self.assertGreater(ended.value("hakmem_refills_total", pid="other", container=container), 15000 / 64 - 2)
        page = next(pathlib.Path(self.folder.name).iterdir())
        report = subprocess.run([built("hakmem"), "report", str(page)], env=environment(preload=False),
                                capture_output=True, text=True, timeout=20, check=True)
        self.assertIn("; the process has ended\n", report.stdout)
        # One that starts later has not seen them alive; it knows where it sees all processes.
        if os.readlink("/proc/self/ns/pid") == f"pid:[{0xEFFFFFFC}]":
            later = MachineExporter(self.folder.name)
            self.addCleanup(later.stop)
            self.assertEqual(later.scrape().value("hakmem_exporter_pages"), 0)
            self.assertGreater(later.scrape().value("hakmem_refills_total", pid="other"), 15000 / 64 - 2)

    def test_a_page_that_another_user_made_for_a_process_of_a_container_is_not_shown(self):
        if os.geteuid() != 0:
            self.skipTest("only root makes files of others")
        own = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(own.cleanup)
        program, _ = self.contained("--mount-proc", pages=own.name)
        program.do("alloc 0 5000 1000")
        page, = pathlib.Path(own.name).iterdir()
        forged = pathlib.Path(self.folder.name, page.name)
        for owner, skipped in ((65534, 1), (65534, 2), (0, 2)):
            new = forged.with_suffix(".new")
            new.write_bytes(page.read_bytes())
            os.chown(new, owner, owner)
            new.rename(forged)
            scrape = self.exporter.scrape()
            self.assertEqual(bool(scrape.matching("hakmem_refills_total")), owner == 0)
            self.assertEqual(scrape.value("hakmem_exporter_pages_skipped_total", problem="foreign_owner"), skipped)
            self.assertTrue(forged.exists())
        self.assertIn(f"hakmem: {forged} is left out: foreign_owner", self.exporter.told())

    def test_what_the_environment_of_a_container_names_is_not_taken_for_that_of_the_machine(self):
        named = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(named.cleanup)
        program, pid = self.contained("--mount-proc", pages=named.name, listen=True)
        program.do("alloc 0 5000 1000")
        program.wait_for_endpoint()

        def hakmem(command):
            result = subprocess.run([built("hakmem"), command, str(pid)], capture_output=True, text=True, timeout=20, check=False,
                                    env=environment(preload=False, HAKMEM_PAGES=self.folder.name))
            self.assertEqual(result.stderr, "")
            return result.returncode, result.stdout

        status, output = hakmem("check")
        self.assertEqual(status, 1)
        self.assertRegex(output, rf"\nstats page: none in {self.folder.name} .*; its container calls the folder {named.name}: ")
        page, = pathlib.Path(named.name).iterdir()
        os.link(page, pathlib.Path(self.folder.name, page.name))  # the folder, as it is mounted here
        status, output = hakmem("check")
        self.assertEqual(status, 0)
        self.assertIn(f"\nstats page: {self.folder.name}/{page.name}\nendpoint: http://", output)
        status, output = hakmem("report")
        self.assertEqual(status, 0)
        self.assertIn("(pid 1), hakmem", output)
        self.assertNotIn("hakmem profile", output)


if __name__ == "__main__":
    main()
