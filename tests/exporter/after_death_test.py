#!/usr/bin/env python3
"""A process that the kernel ends for its memory leaves its account: hakmem report shows it, its last minutes, its peak."""

import tempfile

from harness import *

LIMIT = 400 << 20
# Holds a first part for a while, gives it up, waits for a line, and then takes memory until it is ended.
VICTIM = """if True:
    import select, sys, time
    def take(megabytes, blocks):
        for _ in range(megabytes):
            blocks.append([bytes(1000) for _ in range(1000)])
            time.sleep(0.005)
    blocks = []
    take(120, blocks)
    def live_on():  # the account is made in calls
        take(1, blocks)
        blocks.pop()
    for _ in range(15):
        live_on()
        time.sleep(0.1)
    del blocks[:]
    take(50, blocks)
    print("low", flush=True)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        live_on()
    take(100000, blocks)
"""


class AfterDeath(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.pages = folder.name

    def report(self, argument):
        result = subprocess.run([built("hakmem"), "report", str(argument)], capture_output=True, text=True, timeout=30,
                                env=environment(preload=False, HAKMEM_PAGES=self.pages), check=False)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout

    def start(self, enter):
        process = subprocess.Popen(["/usr/bin/python3", "-c", VICTIM], preexec_fn=enter, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(HAKMEM_PAGES=self.pages, PYTHONMALLOC="malloc"))
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdin.close(), process.stdout.close()))
        self.assertEqual(process.stdout.readline(), "low\n")
        return process

    def entries(self, process):
        return len(re.findall(r"^ +-\d+ s ", self.report(process.pid), re.M))

    def peak(self, text):
        """MiB that were most resident, and how long before the last figures, in seconds."""
        pattern = r"^Most resident +([0-9.]+) MiB, (\d+) s before the last figures\n"
        match = re.search(pattern, text, re.M)
        return (float(match.group(1)), int(match.group(2))) if match else (0.0, 0)

    def check_report(self, process, peak):
        page = next(pathlib.Path(self.pages).iterdir())
        for argument in (process.pid, page):
            text = self.report(argument)
            self.assertRegex(text, rf"^python3 \(pid {process.pid}\), hakmem .*, measured \d+ s ago; the process has ended\n")
            # The last account.
            self.assertRegex(text, r"\n  live +[0-9.]+ MiB +[0-9.]+ %\n")
            rows = re.findall(r"^ +-\d+ s +[0-9.]+ MiB +[0-9.]+ MiB ", text, re.M)
            self.assertGreaterEqual(len(rows), 2, text)
            # The peak is at the end or before, and says when.
            resident, _ = self.peak(text)
            self.assertTrue(peak[0] < resident < peak[1], text)
            live = float(re.search(r"^Most resident .*\n  live +([0-9.]+) MiB\n", text, re.M).group(1))
            self.assertGreater(live, 0.7 * resident)

    def test_killed_by_the_kernel_for_its_memory(self):
        group = limited_cgroup(self, LIMIT)
        process = self.start(lambda: (group / "cgroup.procs").write_text("0", encoding="ascii"))
        self.addCleanup(process.kill)
        wait_until(lambda: self.entries(process) > 1, "a second entry")
        process.stdin.write("now\n")
        process.stdin.flush()
        self.assertEqual(process.wait(60), -signal.SIGKILL, "by the kernel")
        # Resident counts shared pages of files too, which may be charged to whoever read them first.
        self.check_report(process, (250, LIMIT / (1 << 20) + 32))

    def test_killed_when_it_needs_less_than_at_its_peak(self):
        process = self.start(None)
        wait_until(lambda: self.entries(process) > 1 and self.peak(self.report(process.pid))[1] >= 3, "an older peak")
        process.kill()
        process.wait()
        self.check_report(process, (100, 300))


if __name__ == "__main__":
    main()
