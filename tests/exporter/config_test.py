#!/usr/bin/env python3
"""hakmem config: switches of a running process, where HAKMEM_CONTROL=1 allowed them at its start."""

import struct

from harness import *

CONTROL = 1024 - 72  # kControlOffset of telemetry/stats_page.h


def config(pid, *values):
    result = subprocess.run([built("hakmem"), "config", str(pid), *values], env=environment(preload=False),
                            capture_output=True, text=True, timeout=30, check=False)
    return result.returncode, result.stdout, result.stderr


def guarded_blocks(pid):
    """Pages that alone have access between others that have none."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        maps = [(int(begin, 16), int(end, 16), access) for begin, end, access in
                re.findall(r"^(\w+)-(\w+) (\S+) .* 0 *$", file.read(), flags=re.M)]
    return sum(here[1] - here[0] == 4096 and here[2] == "rw-p" and before[2] == after[2] == "---p"
               and before[1] == here[0] and here[1] == after[0]
               for before, here, after in zip(maps, maps[1:], maps[2:]))


class Config(unittest.TestCase):
    def start(self, **variables):
        program = Program(**variables)
        self.addCleanup(program.__exit__)
        return program

    def test_sampling_is_turned_off_and_on(self):
        program = self.start(HAKMEM_CONTROL="1").wait_for_endpoint()
        samples = lambda: program.scrape().value("hakmem_samples_total")
        self.assertEqual(config(program.pid), (0, "sample_bytes=524288\nguard=off\nendpoint=on\n", ""))
        program.do("alloc 0 40000 1000")
        self.assertGreater(samples(), 30)
        self.assertEqual(config(program.pid, "sample_bytes=0"), (0, "sample_bytes=0\nguard=off\nendpoint=on\n", ""))
        program.do("alloc 1 2000 1000")  # the countdown of before runs out
        before = samples()
        program.do("alloc 2 60000 1000")
        self.assertLessEqual(samples(), before + 1)
        self.assertEqual(config(program.pid, "sample_bytes=16384"), (0, "sample_bytes=16384\nguard=off\nendpoint=on\n", ""))
        before = samples()
        # It looks again after 65,536 objects of a class.
        program.do("alloc 3 100000 1000")
        self.assertGreater(samples(), before + 500)
        self.assertEqual(program.error_text(), "")

    def test_the_endpoint_is_stopped_and_started(self):
        program = self.start(HAKMEM_CONTROL="1").wait_for_endpoint()
        program.do("alloc 0 5000 1000")
        program.scrape()
        idle = socket.create_connection(("127.0.0.1", program.port))
        for _ in range(3):
            self.assertEqual(config(program.pid, "endpoint=off"), (0, "sample_bytes=524288\nguard=off\nendpoint=off\n", ""))
            wait_until(lambda: not is_serving(program.port), "the endpoint's end")
            with socket.create_server(("127.0.0.1", program.port)):
                pass
            child = program.do("fork 2048")
            self.assertEqual(len(os.listdir(f"/proc/{child}/task")), 1)
            program.do(f"reap {child}")
            self.assertEqual(config(program.pid, "endpoint=on"), (0, "sample_bytes=524288\nguard=off\nendpoint=on\n", ""))
            program.wait_for_endpoint()
            program.do("alloc 1 5000 1000")
            program.scrape()  # in which no counter fell
        idle.close()
        self.assertEqual(len(os.listdir(f"/proc/{program.pid}/task")), 2)
        self.assertEqual((program.end(), program.error_text()), (0, ""))

    def test_guarded_samples_are_turned_on_and_off(self):
        program = self.start(HAKMEM_CONTROL="1", HAKMEM_SAMPLE_BYTES="1").wait_for_endpoint()
        handles_faults = lambda: bool(int(status_field(program.pid, "SigCgt"), 16) >> (signal.SIGSEGV - 1) & 1)
        program.do("alloc 0 1000 1000")
        self.assertEqual((guarded_blocks(program.pid), handles_faults()), (0, False))
        self.assertEqual(config(program.pid, "guard=on"), (0, "sample_bytes=1\nguard=on\nendpoint=on\n", ""))
        program.do("alloc 1 1000 1000")
        self.assertEqual((guarded_blocks(program.pid), handles_faults()), (256, True))
        self.assertEqual(config(program.pid, "guard=off"), (0, "sample_bytes=1\nguard=off\nendpoint=on\n", ""))
        program.do("free 1 1")
        program.do("alloc 2 1000 1000")
        self.assertEqual(guarded_blocks(program.pid), 0)
        self.assertEqual((program.end(), program.error_text()), (0, ""))

    def test_a_process_without_an_endpoint_answers_when_it_takes_memory(self):
        program = self.start(HAKMEM_CONTROL="1", listen=False)
        program.do("alloc 0 5000 1000")
        status, output, errors = config(program.pid, "endpoint=on")
        self.assertEqual((status, output), (2, ""))
        self.assertIn("has no endpoint of its own", errors)
        waiting = subprocess.Popen([built("hakmem"), "config", str(program.pid), "sample_bytes=4096"], text=True,
                                   env=environment(preload=False), stdout=subprocess.PIPE)
        while waiting.poll() is None:
            program.do("alloc 1 500 1000")
            time.sleep(0.05)
        self.assertEqual((waiting.returncode, waiting.stdout.read()), (0, "sample_bytes=4096\nguard=off\nendpoint=none\n"))
        waiting.stdout.close()
        self.assertEqual(len(os.listdir(f"/proc/{program.pid}/task")), 1, "no thread came for it")

    def test_only_where_it_was_allowed(self):
        program = self.start().wait_for_endpoint()
        status, output, errors = config(program.pid)
        self.assertEqual((status, output), (2, ""))
        self.assertIn("was not started with HAKMEM_CONTROL=1", errors)
        # Nor by whoever writes into the page.
        with open(program.page(), "r+b") as page:
            page.seek(CONTROL)
            page.write(struct.pack("<5Q", 1, 1, 0, 1, 1))
        time.sleep(1.2)
        self.assertTrue(is_serving(program.port))
        program.do("alloc 0 40000 1000")
        self.assertGreater(program.scrape().value("hakmem_samples_total"), 30)

    def test_wrong_uses(self):
        program = self.start(HAKMEM_CONTROL="1").wait_for_endpoint()
        for values in (["x"], ["sample_bytes="], ["sample_bytes=-1"], ["sample_bytes=1k"], ["endpoint=maybe"], ["guard="], ["guard=1"], ["pages=/tmp"]):
            status, output, errors = config(program.pid, *values)
            self.assertEqual((status, output), (2, ""), values)
            self.assertIn("is not understood", errors)
        self.assertIn("has no stats page", config(os.getpid())[2])
        self.assertEqual(config("x")[0], 2)
        self.assertEqual(config(program.pid)[1], "sample_bytes=524288\nguard=off\nendpoint=on\n")
        with Program(HAKMEM_CONTROL="yes", listen=False) as other:
            other.do("try 10")
            self.assertEqual(lines(other.error_text()), ["hakmem: HAKMEM_CONTROL=yes is not 0 or 1; the default is used"])


if __name__ == "__main__":
    main()
