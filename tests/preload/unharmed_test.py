"""A preloaded program is unharmed: the same output and status, no extra threads, files or signal handlers."""

import os
import re
import signal
import subprocess
import sys
import time

import harness

PROBE = ""  # taken from the command line, below


class UnharmedTest(harness.PreloadTest):
    def test_probe(self):
        """A program that looks at itself sees the same with and without the preload.

        But for one thread-specific key at most: docs/architecture.md tells what for.
        """
        looks = [harness.run([PROBE], preload) for preload in (False, True)]
        keys = [list(map(int, re.findall(rb"^thread-specific keys (\d+)", output, re.M))) for _, output, _ in looks]
        self.assertEqual([3, 3], list(map(len, keys)))
        for without, with_preload in zip(*keys):
            self.assertIn(without - with_preload, (0, 1))
        plain, preloaded = ((status, re.sub(rb"keys \d+", b"keys", output), errors) for status, output, errors in looks)
        self.assertEqual(plain, preloaded)
        self.assertEqual((0, b""), (plain[0], plain[2]))
        self.assertEqual(3, plain[1].count(b"\nthreads 1\n"))

    def look(self, preload):
        """Threads, files and signals of an idle program, seen from outside."""
        with harness.server(["/usr/bin/python3", "-c", "import time; x = [0] * 10**6; time.sleep(30)"], preload) as process:
            time.sleep(1.8)
            self.assertEqual(preload, harness.is_mapped(process.pid))
            with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                status = file.read()
            signals = re.findall(r"^(?:Sig(?:Blk|Ign|Cgt)|Threads|Seccomp|THP_enabled):.*", status, re.MULTILINE)
            files = sorted(os.listdir(f"/proc/{process.pid}/fd"))
            children = subprocess.run(["/usr/bin/ps", "--ppid", str(process.pid), "-o", "comm="], capture_output=True,
                                      check=False)
            return signals, files, children.stdout

    def test_idle_program_seen_from_outside(self):
        self.assertEqual(self.look(False), self.look(True))

    def test_pages_of_dead_processes_do_not_gather(self):
        """Children that are killed or end by _exit leave their stats pages; later ones remove them when they are many."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has stats pages")
        pages = self.directory("pages")
        # Copies of a dead child's page under pids that cannot exist; then children until somebody sweeps.
        script = """if True:
            import os, shutil, sys
            pages = sys.argv[1]
            def run_child(number):
                child = os.fork()
                if child == 0:
                    blocks = [bytes(2000) for _ in range(2000)]  # above what Python maps by itself
                    if number % 2:
                        os.kill(os.getpid(), 9)
                    os._exit(0)
                os.waitpid(child, 0)
                return child
            child = run_child(0)
            name = [name for name in os.listdir(pages) if str(child) in name][0]
            for i in range(700):
                shutil.copy(os.path.join(pages, name), os.path.join(pages, name.replace(str(child), str(2 ** 29 + i))))
            assert len(os.listdir(pages)) > 700
            for number in range(300):
                run_child(number)
                if len(os.listdir(pages)) < 100:
                    break
            print(len(os.listdir(pages)) < 100)
            """
        result = harness.run(["/usr/bin/python3", "-c", script, pages], True, variables={"HAKMEM_PAGES": pages})
        self.assertEqual((0, b"True\n", b""), result)
        self.assertLess(len(os.listdir(pages)), 100)

    def test_child_that_bypasses_the_fork_handlers(self):
        """A child by _Fork or clone allocates on, and where its parent has a stats page too."""
        variables = {"HAKMEM_PAGES": self.directory("pages")} if "telemetry" in harness.LIBRARY else None
        script = """if True:
            import ctypes, os, signal
            libc = ctypes.PyDLL(None)
            clone = 56 if os.uname().machine == "x86_64" else 220
            blocks = [bytes(500) for _ in range(20000)]  # the stats page comes with them
            for start in (libc._Fork, lambda: libc.syscall(clone, signal.SIGCHLD, 0, 0, 0, 0)):
                child = start()
                if child == 0:
                    blocks = [[bytes(100 + i % 400) for i in range(50000)] for _ in range(4)]
                    os._exit(0)
                print(os.waitpid(child, 0)[1])
            """
        result = harness.run(["/usr/bin/python3", "-c", script], True, variables=variables)
        self.assertEqual((0, b"0\n0\n", b""), result)

    def test_small_programs(self):
        data = b"".join(b"%d line %d\n" % (i * 7919 % 1000, i) for i in range(20000))
        for command in (["true"], ["false"], ["echo", "hello"], ["ls", "-l", "/etc"], ["sort", "-n"], ["uniq", "-c"],
                        ["grep", "-c", "7"], ["awk", "{ s += $1; t[$3] = $0 } END { print s, length(t) }"],
                        ["sed", "s/line/LINE/g"], ["gzip", "-nc"], ["xz", "-c", "-T2"], ["sha256sum"], ["tac"],
                        ["tar", "--help"], ["cat", "/missing"], ["find", "/usr/share/doc", "-maxdepth", "1", "-newermt",
                                                                 "2000-01-01"],
                        ["date", "--version"], ["env", "-i", "/bin/true"], ["id"], ["getent", "passwd"]):
            with self.subTest(command=command[0]):
                self.check_same([harness.program(command[0]), *command[1:]], stdin=data)

    def test_closed_standard_files(self):
        """Nothing opens a file that takes the number of a closed standard one."""
        shell = harness.program("sh")
        self.check_same([shell, "-c", "exec <&- 2>&-; ls /proc/self/fd | wc -l"])
        self.check_same([shell, "-c", "exec >&- ; sort /etc/passwd"])

    def test_closed_pipe(self):
        """A writer whose reader is gone ends by SIGPIPE, as without the preload."""
        for preload in (False, True):
            writer = subprocess.Popen([harness.program("yes")], env=harness.environment(preload),
                                      stdout=subprocess.PIPE)
            writer.stdout.read(4096)
            writer.stdout.close()
            self.assertEqual(-signal.SIGPIPE, writer.wait(timeout=20))

    def test_memory_of_a_small_program(self):
        """An idle program does not grow by more than 2 MiB."""
        def resident(preload):
            with harness.server(["/usr/bin/sleep", "30"], preload) as process:
                time.sleep(0.3)
                return harness.resident_kib(process.pid)

        self.assertLess(resident(True), resident(False) + 2048)


if __name__ == "__main__":
    PROBE = sys.argv.pop()
    harness.main()
