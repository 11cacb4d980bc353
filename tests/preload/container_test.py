"""What containers and sandboxes take away: a program there is unharmed, whatever telemetry can still do."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import cgroups
import harness

WITHOUT_SOCKETS = ""  # taken from the command line, below
PYTHON = "/usr/bin/python3"

# Allocates long enough for a stats page and figures, then tells what it sees of
# itself. How long, only the variable says: it must not show in the output.
WORK = """if True:
    import gc, os, sys, time
    end = time.monotonic() + float(os.environ.get("TEST_SECONDS", "0"))
    kept = [bytes(700 + i % 900) for i in range(8000)]
    while time.monotonic() < end:
        blocks = [bytes(600 + i % 1000) for i in range(4000)]
        time.sleep(0.01)
    print(sum(map(len, kept)), os.getuid(), os.geteuid())
    if os.path.isdir("/proc/self"):
        fields = ("Threads", "SigBlk", "SigIgn", "SigCgt", "Seccomp", "NoNewPrivs", "CapEff")
        with open("/proc/self/status") as file:
            print(*[line.strip() for line in file if line.split(":")[0] in fields])
        print(*sorted(os.listdir("/proc/self/fd"), key=int))
"""


# Holds so many MiB at a time, in blocks of one size after another.
PHASES = """if True:
    import sys
    for _ in range(2):
        for size in (1000, 8 << 20, 600000, 40 << 20, 300, 30000):
            blocks = [b"x" * size for _ in range((int(sys.argv[1]) << 20) // size)]
            del blocks
    print("well")
"""


def may_unshare():
    return os.geteuid() == 0 and subprocess.run([harness.program("unshare"), "-m", "true"], capture_output=True,
                                                check=False).returncode == 0


class ContainerTest(harness.PreloadTest):
    def check_unharmed(self, wrap=lambda command: command, errors=None, **variables):
        """The same output and status with and without the preload; `wrap` puts the program into its container.

        With telemetry's own lines on stderr only where `errors` says which.
        """
        results = []
        for preload in (False, True):
            own = {**variables, "TEST_SECONDS": "1.2"} if preload else {}
            # The preload is the program's alone, not the wrapper's: env sets it at the end.
            preloaded = [f"LD_PRELOAD={harness.LIBRARY}"] if preload else []
            command = wrap(["/usr/bin/env", *preloaded, *[f"{name}={value}" for name, value in own.items()], PYTHON, "-c", WORK])
            results.append(harness.run(command, False, timeout=60))
        plain, preloaded = results
        self.assertEqual((0, b""), (plain[0], plain[2]), plain)
        self.assertEqual(plain[:2], preloaded[:2], preloaded[2])
        if errors is None:
            self.assertEqual(b"", preloaded[2])
        else:
            self.assertRegex(preloaded[2].decode(), errors)
        return preloaded[1]

    def needs_namespaces(self):
        if not may_unshare():
            self.skipTest("no mount namespace can be had here")

    def in_namespace(self, script):
        """What to wrap a command with: a mount namespace in which a script has run."""
        return lambda command: [harness.program("unshare"), "-m", "--propagation", "private", "sh", "-ec",
                                script + '\nexec "$@"', "sh", *command]

    def test_a_root_that_is_read_only(self):
        self.needs_namespaces()
        self.check_unharmed(self.in_namespace("mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm"))

    def test_memory_that_is_free_does_not_reach_the_limit_of_a_container(self):
        """The kernel ends who comes to it. The limit is seen where containers see theirs, of version 1 and 2."""
        self.needs_namespaces()
        limit = 256 << 20
        cgroup = cgroups.limited_cgroup(self, limit)
        for see in (f"mount -t tmpfs none /sys/fs/cgroup && echo {limit} >/sys/fs/cgroup/memory.max",
                    f"mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory && echo {limit} "
                    ">/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            enter = f"echo $$ >{cgroup}/cgroup.procs && {see}"
            command = ["/usr/bin/env", f"LD_PRELOAD={harness.LIBRARY}", "PYTHONMALLOC=malloc", PYTHON, "-c", PHASES, "140"]
            self.assertEqual((0, b"well\n", b""), harness.run(self.in_namespace(enter)(command), False))

    def test_no_folder_for_pages(self):
        self.needs_namespaces()
        # /dev is another one, without shm.
        script = f"mkdir {self.scratch}/dev && mount --bind {self.scratch}/dev /dev && mknod -m 666 /dev/null c 1 3"
        clean_up = f"rm -rf {self.scratch}/dev"
        self.check_unharmed(self.in_namespace(f"{clean_up}; {script}"))

    def test_a_folder_that_is_full(self):
        self.needs_namespaces()
        self.check_unharmed(self.in_namespace("mount -t tmpfs -o size=64k none /dev/shm; head -c 60000 /dev/zero >/dev/shm/x"))

    def test_a_full_folder_that_was_asked_for(self):
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has stats pages")
        missing = os.path.join(self.scratch, "missing")
        self.check_unharmed(errors=r"^hakmem: no stats page in \S+/missing: it does not exist; hakmem-exporter does not see "
                                   r"this process\n$", HAKMEM_PAGES=missing)

    def test_another_user(self):
        if os.geteuid() != 0:
            self.skipTest("only root changes the user")
        pages = pathlib.Path(self.directory("pages"))
        os.chmod(self.scratch, 0o711)
        nobody = harness.unprivileged()
        # As in an image whose folder belongs to root: then there is no page.
        library = shutil.copy(harness.LIBRARY, self.scratch)
        self.use_library(library)
        if "telemetry" in library:
            self.check_unharmed(lambda command: [*nobody, *command], HAKMEM_PAGES=str(pages),
                                errors=r"^hakmem: no stats page in \S+: permission denied; [^\n]+\n$")
        self.check_unharmed(lambda command: [*nobody, *command])

    def use_library(self, library):
        before, harness.LIBRARY = harness.LIBRARY, library
        self.addCleanup(setattr, harness, "LIBRARY", before)

    def test_no_sockets(self):
        """A filter that ends who opens a socket, and one that refuses it."""
        if harness.run([WITHOUT_SOCKETS, "errno", "/bin/true"], False)[0] == 77:
            self.skipTest("no filter can be installed here")
        for action in ("kill", "errno"):
            self.check_unharmed(lambda command, action=action: [WITHOUT_SOCKETS, action, *command])
        if "telemetry" not in harness.LIBRARY:
            return
        # With an endpoint asked for there is a thread, and a line that says why there is no endpoint.
        status, output, errors = harness.run([WITHOUT_SOCKETS, "errno", PYTHON, "-c", WORK], True, variables={
            "TEST_SECONDS": "1.8", "HAKMEM_LISTEN": f"127.0.0.1:{harness.free_port()}"})
        self.assertEqual(0, status)
        self.assertTrue(output.startswith(b"%d " % sum(700 + i % 900 for i in range(8000))))
        self.assertRegex(errors.decode(), r"^hakmem: no endpoint: cannot listen on \S+: Operation not permitted\n$")

    def test_unshare(self):
        """A process with one thread may enter a new user namespace: the preload adds none."""
        command = [harness.program("unshare"), "--user", "--map-root-user", "--ipc", "--uts", PYTHON, "-c", WORK]
        if harness.run(command, False)[0] != 0:
            self.skipTest("no user namespace can be had here")
        self.check_same(command)
        if "telemetry" in harness.LIBRARY:
            plain = harness.run(command, False)
            named = harness.run(command, True, variables={"HAKMEM_LISTEN": f"127.0.0.1:{harness.free_port()}",
                                                          "HAKMEM_PROGRAM": "another"})
            self.assertEqual(plain, named)

    def test_a_chroot_without_proc_and_dev(self):
        self.needs_namespaces()
        root = self.directory("root")
        os.makedirs(f"{root}/{os.path.dirname(harness.LIBRARY)}")
        script = f"""
            for folder in /usr /bin /lib /lib64; do
              if [ -L $folder ]; then cp -P $folder {root}; else mkdir -p {root}$folder; mount --bind $folder {root}$folder; fi
            done
            mount --bind {os.path.dirname(harness.LIBRARY)} {root}{os.path.dirname(harness.LIBRARY)}"""
        output = self.check_unharmed(lambda command: self.in_namespace(script)(["chroot", root, *command]))
        self.assertNotIn(b"Threads", output)
        if "telemetry" in harness.LIBRARY:
            self.check_unharmed(lambda command: self.in_namespace(script)(["chroot", root, *command]), HAKMEM_PAGES="/pages",
                                errors=r"^hakmem: no stats page in /pages: it does not exist; [^\n]+\n$")

    def test_a_daemon_that_closes_all_descriptors(self):
        closing = "import os, sys; os.closerange(3, 4096); os.execv(sys.argv[1], sys.argv[1:])"
        self.check_unharmed(lambda command: [PYTHON, "-c", closing, *command])
        work = WORK.replace("    print(sum", "    os.closerange(3, 4096)\n    blocks = [bytes(2000) for _ in range(9000)]\n    print(sum")
        status, output, errors = harness.run([PYTHON, "-c", work], True, variables={"TEST_SECONDS": "1.2"})
        self.assertEqual((harness.run([PYTHON, "-c", work], False)), (status, output, errors))

    def test_ten_descriptors(self):
        few = ["sh", "-c", 'ulimit -n 10; exec "$@"', "sh"]
        self.check_unharmed(lambda command: [*few, *command])
        # And all of them in use when the page is due.
        work = WORK.replace("    kept =", "    files = []\n    try:\n        while True: files.append(os.dup(0))\n"
                                          "    except OSError: pass\n    kept =", 1).replace(
            "    if os.path.isdir", "    for file in files: os.close(file)\n    if os.path.isdir")
        self.assertNotEqual(work, WORK)
        plain = harness.run([*few, PYTHON, "-c", work], False)
        preloaded = harness.run([*few, PYTHON, "-c", work], True, variables={"TEST_SECONDS": "1.2"})
        self.assertEqual((0, b""), (plain[0], plain[2]))
        self.assertEqual(plain, preloaded)

    def test_set_user_id(self):
        """The loader leaves a preload by path out of a set-user-id program, without a word; what that starts has none."""
        if os.geteuid() != 0:
            self.skipTest("only root makes a set-user-id program")
        os.chmod(self.scratch, 0o711)
        own = os.path.join(self.scratch, "id")
        shutil.copy(harness.program("id"), own)
        os.chmod(own, 0o755 | stat.S_ISUID)
        self.use_library(shutil.copy(harness.LIBRARY, self.scratch))
        command = [*harness.unprivileged(), own]
        status, output, errors = harness.run(command, False)
        if b"euid=0" not in output:
            self.skipTest("the file system of temporary files ignores set-user-id")
        self.assertEqual((0, b""), (status, errors))
        variables = {"HAKMEM_LISTEN": f"127.0.0.1:{harness.free_port()}"} if "telemetry" in harness.LIBRARY else {}
        # setpriv itself drops capabilities, and serves by the name of another program only.
        variables |= {"HAKMEM_PROGRAM": "id"} if variables else {}
        self.assertEqual((status, output, errors), harness.run(command, True, variables=variables))

    def test_a_shell_that_starts_hundreds_of_children(self):
        """They leave no file behind; bench/trees/scrape.py measures it with ten thousand."""
        pages = self.directory("pages")
        variables = {"HAKMEM_PAGES": pages} if "telemetry" in harness.LIBRARY else {}
        script = "i=0; while [ $i -lt 600 ]; do /bin/true || exit 1; i=$((i + 1)); done; echo $i"
        self.assertEqual((0, b"600\n", b""), harness.run(["/bin/sh", "-c", script], True, variables=variables))
        # Dash ends by _exit, as if it were killed: its own page stays for a report.
        self.assertLessEqual(len(os.listdir(pages)), 1)


if __name__ == "__main__":
    WITHOUT_SOCKETS = sys.argv.pop()
    harness.main()
