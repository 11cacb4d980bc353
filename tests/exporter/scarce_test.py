#!/usr/bin/env python3
"""hakmem-exporter, the tools and the endpoint of a process where memory runs out: each of their allocations fails in turn,
in the real program, by a malloc of the test's own (scarce_malloc.cc). None crashes, nothing leaks, and no count is lost or made twice."""

import mmap
import resource
import struct
import tempfile

from harness import *

ENDED = 1 << 30  # a pid that no process has


def numbers_of(count, most):
    """Of so many allocations those that fail: some that are spread evenly, but all in the test that takes long."""
    return range(1, count + 1, 1 if "EVERY_ALLOCATION" in os.environ else max(1, count // most))


def ask(port, path="/metrics"):
    """An answer in full, or what came in its place."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        try:
            while chunk := client.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
    assert not answer or re.match(rb"HTTP/1\.1 (200|500) ", answer), answer[:100]
    return answer


class Scarcity:
    """The malloc of a program, told through a file: see scarce_malloc.cc."""

    def __init__(self, test):
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.variables = {"SCARCE_MALLOC": os.path.join(folder.name, "control"), "LD_PRELOAD": built("tests/scarce_malloc.so")}
        with open(self.variables["SCARCE_MALLOC"], "w+b") as file:
            file.write(struct.pack("<4q", -1, 0, 0, 0))
            file.flush()
            self.shared = mmap.mmap(file.fileno(), 32)
        test.addCleanup(self.shared.close)

    def fail(self, number, is_lasting=False):
        """The allocation of that number from now on, from 1, fails; or all from it on."""
        self.shared[:16] = struct.pack("<2q", number, is_lasting)

    def is_due(self):
        return self.value(0) > 0

    def value(self, index):
        return struct.unpack_from("<q", self.shared, 8 * index)[0]

    def end(self):
        self.shared[:8] = struct.pack("<q", -1)

    def calls(self, action):
        before = self.value(2)
        action()
        return self.value(2) - before


class Exporter(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.pages = pathlib.Path(folder.name)
        self.program = Program(listen=False, pages=folder.name, HAKMEM_SAMPLE_BYTES="0")
        self.addCleanup(self.program.__exit__)
        self.program.do("alloc 0 5000 1000")
        self.page = self.program.page().read_bytes()
        self.memory = Scarcity(self)

    def start(self):
        port = free_port()
        process = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{port}", "--pages", self.pages, "--young", "0"],
                                   env=environment(preload=False, **self.memory.variables), stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stderr.close()))
        return process, port

    def end_a_process(self, number):
        """Leaves the page of a process that has ended."""
        data = bytearray(self.page)
        data[48:52] = struct.pack("<I", ENDED + number)
        name = self.program.page().name.split(".")
        name[2] = str(ENDED + number)
        path = self.pages / ".".join(name)
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").rename(path)

    @staticmethod
    def idle_files(process):
        """The descriptors it holds when the last connection is closed."""
        time.sleep(1.2)
        return sorted(map(int, os.listdir(f"/proc/{process.pid}/fd")))

    def test_every_allocation_of_a_scrape(self):
        process, port = self.start()
        wait_until(lambda: is_serving(port), "hakmem-exporter")
        refills = lambda: Scrape(get(port)).value("hakmem_refills_total", pid="other")
        self.end_a_process(0)
        of_one = refills()
        for number in range(1, 20):  # more than it keeps
            self.end_a_process(number)
        for _ in range(3):
            refills()
        blocks, files = self.memory.value(3), self.idle_files(process)
        ended = 20
        failed = 0
        while True:
            # Each meets a page that is new, is kept, and puts an older one in the place to be removed.
            self.end_a_process(ended)
            ended += 1
            failed += 1
            self.memory.fail(failed, failed % 2 == 0)
            ask(port)
            was_last = self.memory.is_due()
            self.memory.end()
            self.assertIsNone(process.poll(), failed)
            if failed % 20 == 0 or was_last:
                self.assertEqual(refills(), ended * of_one, f"after failure {failed}")
            if was_last:
                break
        self.assertGreater(failed, 500)
        print(f"{failed} allocations of a scrape failed", file=sys.stderr)
        Scrape(get(port)).lint()
        self.assertEqual(self.idle_files(process), files)
        self.assertAlmostEqual(self.memory.value(3), blocks, delta=16)
        process.terminate()
        self.assertEqual(process.wait(10), 0)

    def test_descriptors_that_run_out(self):
        """A scrape that finds none left, or but a few, shows what was last known; nobody is taken for ended."""
        process, port = self.start()
        wait_until(lambda: is_serving(port), "hakmem-exporter")
        scrape = lambda: Scrape(get(port))
        scrape()
        for number in range(20):
            self.end_a_process(number)
        scrape()
        refills = {pid: scrape().value("hakmem_refills_total", pid=pid) for pid in (str(self.program.pid), "other")}
        files = sorted(self.pages.iterdir())
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        all_files = self.idle_files(process)
        low = [fd for fd in all_files if fd < 60]
        self.assertLessEqual(low[-1], len(low))  # so that a limit of one more leaves one
        for left in (1, 2, 3, 4):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (len(low) + left, limits[1]))
            for _ in range(2):
                shown = scrape()
                for pid, value in refills.items():
                    self.assertEqual(shown.value("hakmem_refills_total", pid=pid), value, f"{left} descriptors left")
                wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) == len(all_files), "the connection's end")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        for pid, value in refills.items():
            self.assertEqual(scrape().value("hakmem_refills_total", pid=pid), value)
        self.assertEqual(sorted(self.pages.iterdir()), files)

    def test_every_allocation_of_its_start(self):
        process, port = self.start()
        wait_until(lambda: is_serving(port), "hakmem-exporter")
        count = self.memory.value(2)
        process.terminate()
        process.wait(10)
        for number in range(1, count + 1):
            self.memory.fail(number)
            process, port = self.start()
            wait_until(lambda: process.poll() is not None or is_serving(port), "it serves, or says why not")
            self.memory.end()
            if process.poll() is None:
                process.terminate()
                self.assertEqual(process.wait(10), 0)
                continue
            self.assertEqual(process.returncode, 1, number)
            self.assertEqual(lines(process.stderr.read()), ["hakmem: out of memory"])
        print(f"{count} allocations of its start failed", file=sys.stderr)


class Tools(unittest.TestCase):
    def test_every_allocation_of_each_command(self):
        program = Program(HAKMEM_CONTROL="1")
        self.addCleanup(program.__exit__)
        program.do("alloc 0 20000 1000")
        program.wait_for_endpoint()
        program.scrape()
        memory = Scarcity(self)
        pid = str(program.pid)
        for command in (["report", pid], ["top", "--once"], ["check", pid], ["config", pid], ["profile", pid, "-o", "/dev/null"],
                        ["run", "--listen", f"127.0.0.1:{free_port()}", "/bin/false"], ["help"]):
            run = lambda command=command: subprocess.run([built("hakmem"), *command], capture_output=True, text=True, timeout=60,
                                                         env=environment(preload=False, **memory.variables), check=False)
            right = 1 if command[0] == "run" else 0
            count = memory.calls(lambda: self.assertEqual(run().returncode, right))
            numbers = numbers_of(count, 100)
            for number in numbers:
                memory.fail(number)
                result = run()
                memory.end()
                self.assertIn(result.returncode, (0, 1, 2), (command, number, result.stderr))
                self.assertLessEqual(len(lines(result.stderr)), 1, (command, number, result.stderr))
            print(f"{len(numbers)} of {count} allocations of hakmem {command[0]} failed", file=sys.stderr)


def listens(program):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", program.port)) == 0


def settled_blocks(memory, answer):
    """How many blocks live once answers leave no more: the first few keep what they read of a child that has just begun."""
    counts = []

    def is_settled():
        answer()
        counts.append(memory.value(3))
        return len(counts) >= 10 and max(counts[-10:]) - min(counts[-10:]) <= 16

    wait_until(is_settled, f"answers that leave no blocks: {counts}")
    return counts[-1]


class Endpoint(unittest.TestCase):
    def start(self, memory):
        variables = memory.variables | {"LD_PRELOAD": f"{memory.variables['LD_PRELOAD']}:{library()}"}
        program = Program(pages=self.pages, **variables)
        self.addCleanup(program.__exit__)
        return program

    def test_every_allocation_of_its_start(self):
        """Either it serves, or it says that it does not and leaves the port; the program goes on."""
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.pages = folder.name
        memory = Scarcity(self)
        program = self.start(memory)
        program.do("alloc 0 10 10")  # from here on the program allocates nothing, and the endpoint only after a second
        complains = lambda program: "no endpoint" in program.error_text()
        count = memory.calls(lambda: wait_until(lambda: listens(program), "an endpoint"))
        numbers = list(numbers_of(count, 32))
        served = 0
        for first in range(0, len(numbers), 16):
            started = []
            for number in numbers[first:first + 16]:
                memory = Scarcity(self)
                program = self.start(memory)
                program.do("alloc 0 10 10")
                memory.fail(number, number % 2 == 0)
                started.append((number, memory, program))
            for number, memory, program in started:
                wait_until(lambda: complains(program) or listens(program), f"an endpoint, or why not, after failure {number}")
                memory.end()
                wait_until(lambda: complains(program) or is_serving(program.port), f"an answer, or why not, after failure {number}")
                served += not complains(program)
                if complains(program):
                    self.assertEqual(len(lines(program.error_text())), 1, (number, program.error_text()))
                    wait_until(lambda: not listens(program), f"a closed port after failure {number}")
                program.do("alloc 1 10 10")
                self.assertEqual(program.end(), 0, (number, program.error_text()))
        print(f"{len(numbers)} of {count} allocations of its start failed; it served all the same: {served}", file=sys.stderr)
        self.assertLess(served, len(numbers))

    def test_every_allocation_of_each_answer(self):
        memory = Scarcity(self)
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        variables = memory.variables | {"LD_PRELOAD": f"{memory.variables['LD_PRELOAD']}:{library()}"}
        program = Program(pages=folder.name, HAKMEM_SAMPLE_BYTES="2048", **variables)
        self.addCleanup(program.__exit__)
        program.wait_for_endpoint()
        for slot in range(8):  # after that no thread but the one that serves allocates
            program.do(f"alloc {slot} 3000 {100 * (slot + 1)}")
        child = program.do(f"fork {4 << 20}")
        for path in ("/metrics", "/debug/pprof/heap", "/debug/pprof/fragmentation", "/debug/pprof/lifetimes", "/debug/leaks"):
            answer = lambda path=path: ask(program.port, path)
            blocks = settled_blocks(memory, answer)
            numbers = numbers_of(memory.calls(answer), 300)
            for number in numbers:
                memory.fail(number, number % 2 == 0)
                answer()
                memory.end()
                self.assertIsNone(program.process.poll(), (path, number))
            self.assertTrue(answer().startswith(b"HTTP/1.1 200 "), path)
            self.assertAlmostEqual(memory.value(3), blocks, delta=64)
            print(f"{len(numbers)} of {numbers[-1]} allocations of {path} failed", file=sys.stderr)
        program.scrape().lint()
        program.do(f"reap {child}")
        self.assertEqual(program.end(), 0)
        self.assertEqual(set(lines(program.error_text())), {"hakmem: a request for /metrics failed: std::bad_alloc"})


if __name__ == "__main__":
    main()
