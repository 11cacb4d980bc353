#!/usr/bin/env python3
"""The USDT probes of the telemetry library: each is a nop with a note that tools can read, and the arguments that the
kernel finds there are those of what the program did.

    probes_test.py BUILD_FOLDER [unittest arguments]
"""

import ctypes
import mmap
import struct
import tempfile

from harness import *

SCRIPTS = ROOT / "telemetry/bpftrace"
# Provider and name -> number of arguments.
PROBES = {("otel_memory", "alloc"): 3, ("otel_memory", "free"): 1, ("hakmem", "refill"): 3,
          ("hakmem", "superslab_refill"): 3, ("hakmem", "purge"): 1, ("hakmem", "map"): 2, ("hakmem", "unmap"): 2}
# A register or a number, of 64 bits.
PLACE = re.compile(r"8@(%[a-z0-9]+|\$-?\d+)")
NOTE = re.compile(r"Provider: (\S+)\s+Name: (\S+)\s+Location: (0x\w+), Base: (0x\w+), Semaphore: (0x\w+)\s+Arguments: ?(.*)")
UPROBE = pathlib.Path("/sys/bus/event_source/devices/uprobe/type")
SYS_PERF_EVENT_OPEN = 298


def readelf(*arguments):
    return subprocess.run(["readelf", "-W", *arguments, library()], capture_output=True, text=True, check=True).stdout


def notes():
    """(provider, name), address, base, semaphore, arguments of each."""
    return [((note[0], note[1]), *(int(field, 16) for field in note[2:5]), note[5].split())
            for note in NOTE.findall(readelf("-n"))]


def offset_in_file(address):
    segments = [tuple(int(field, 16) for field in match) for match in
                re.findall(r"LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+)", readelf("-l"))]
    return next(address - start + at for at, start, size in segments if start <= address < start + size)


# Bits of PERF_SAMPLE_REGS_USER, and the order of what it gives.
REGISTERS = {name: bit for bit, name in enumerate(("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"))} | {
    f"{number}": 8 + number for number in range(8, 16)}
PERF_SAMPLE_REGS_USER = 1 << 12
PERF_RECORD_SAMPLE = 9
PAGE = mmap.PAGESIZE
RING = 256 * PAGE


class Place:
    """One probe in the code, and a ring of the kernel with the registers at each time that a process came by."""

    def __init__(self, pid, address, semaphore, arguments):
        self.arguments = arguments
        path = ctypes.create_string_buffer(library().encode())
        attributes = bytearray(128)
        counter = offset_in_file(semaphore) if semaphore else 0
        struct.pack_into("=IIQQQ", attributes, 0, int(UPROBE.read_text()), len(attributes), counter << 32, 1,
                         PERF_SAMPLE_REGS_USER)
        struct.pack_into("=QQQQ", attributes, 56, ctypes.addressof(path), offset_in_file(address), 0,
                         sum(1 << bit for bit in REGISTERS.values()))
        self.file = ctypes.CDLL(None, use_errno=True).syscall(
            SYS_PERF_EVENT_OPEN, (ctypes.c_char * len(attributes)).from_buffer(attributes), pid, -1, -1, 0)
        if self.file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self.ring = mmap.mmap(self.file, PAGE + RING)

    def close(self):
        self.ring.close()
        os.close(self.file)

    def take(self):
        """The arguments of each call since the last look."""
        head, tail = struct.unpack_from("=QQ", self.ring, 1024)
        assert head - tail < RING - PAGE, "more calls than find room"
        data = self.ring[PAGE:]
        start = tail % RING
        data = (data[start:] + data[:start])[:head - tail]
        struct.pack_into("=Q", self.ring, 1032, head)
        calls = []
        while data:
            kind, _, size = struct.unpack_from("=IHH", data)
            assert kind == PERF_RECORD_SAMPLE, f"a record of kind {kind}"
            values = struct.unpack_from(f"={len(REGISTERS)}Q", data, 16)
            calls.append([self.value(place, values) for place in self.arguments])
            data = data[size:]
        return calls

    @staticmethod
    def value(place, values):
        place = place.removeprefix("8@")
        if place.startswith("$"):
            return int(place[1:]) % (1 << 64)
        return values[list(REGISTERS).index(place.lstrip("%r"))]


class Calls:
    """What came by the places of one probe in a process, with its semaphore raised meanwhile."""

    def __init__(self, pid, probe):
        self.places = [Place(pid, address, semaphore, arguments)
                       for name, address, _, semaphore, arguments in notes() if name == probe]

    def take(self):
        return [call for place in self.places for call in place.take()]

    def close(self):
        for place in self.places:
            place.close()
        self.places = []


class Notes(unittest.TestCase):
    def test_every_probe_is_there_with_its_arguments(self):
        self.assertEqual({note[0] for note in notes()}, set(PROBES))
        for probe, _, _, semaphore, arguments in notes():
            self.assertEqual(len(arguments), PROBES[probe], (probe, arguments))
            for place in arguments:
                self.assertTrue(PLACE.fullmatch(place), (probe, place))
            self.assertEqual(semaphore != 0, probe[0] == "otel_memory", probe)

    def test_each_stands_at_a_nop(self):
        data = pathlib.Path(library()).read_bytes()
        for probe, address, *_ in notes():
            self.assertEqual(data[offset_in_file(address)], 0x90, probe)

    def test_the_base_is_where_the_notes_say(self):
        """Tools correct the locations by the difference, where a file was prelinked."""
        base = int(re.search(r"\.stapsdt\.base\s+PROGBITS\s+(\w+)", readelf("-S")).group(1), 16)
        self.assertEqual({note[2] for note in notes()}, {base})

    def test_the_scripts_name_probes_that_are_there(self):
        scripts = sorted(SCRIPTS.glob("*.bt"))
        self.assertEqual(len(scripts), 2)
        for script in scripts:
            found = re.findall(r"usdt:\$1:(\w+):(\w+)\s*(?:/[^/]*/\s*)?\{([^}]*)\}", script.read_text(encoding="utf-8"))
            self.assertTrue(found, script)
            for provider, name, body in found:
                self.assertIn((provider, name), PROBES)
                for argument in re.findall(r"\barg(\d)", body):
                    self.assertLess(int(argument), PROBES[provider, name], (script, name))


@unittest.skipUnless(UPROBE.exists() and os.geteuid() == 0, "needs root, and a kernel with uprobes")
class Arguments(unittest.TestCase):
    def calls(self, program, *probe):
        calls = Calls(program.pid, probe)
        self.addCleanup(calls.close)
        return calls

    def check_freed(self, frees, allocated):
        self.assertEqual(sorted(pointer for pointer, in frees.take()), sorted(pointer for pointer, *_ in allocated))

    def test_samples(self):
        with Program(HAKMEM_SAMPLE_BYTES="10000", listen=False) as program:
            program.do("alloc 0 5000 1000")
            allocs, frees = (self.calls(program, "otel_memory", name) for name in ("alloc", "free"))
            self.assertEqual((allocs.take(), frees.take()), ([], []))
            program.do("alloc 1 20000 1000")
            allocated = allocs.take()
            self.assertAlmostEqual(len(allocated), 2000, delta=300)
            self.assertEqual({size for _, size, _ in allocated}, {1000})
            self.assertAlmostEqual(sum(weight for _, _, weight in allocated), 20000 * 1000, delta=3_000_000)
            self.assertEqual(frees.take(), [])
            program.do("free 1 1")
            self.check_freed(frees, allocated)
            program.do("alloc 2 10 3000000")  # each stands for itself, and for what it was rounded up by
            program.do("free 2 1")
            allocated = allocs.take()
            self.assertEqual([(size, weight // PAGE) for _, size, weight in allocated],
                             [(3000000, 3000000 // PAGE + 1)] * 10)
            self.check_freed(frees, allocated)
            allocs.close()
            frees.close()
            program.do("alloc 3 5000 1000")  # and nobody listens any more

    def test_the_slow_path(self):
        with Program(HAKMEM_SAMPLE_BYTES="0", listen=False) as program:
            program.do("alloc 0 10 1000")
            refills, slabs = self.calls(program, "hakmem", "refill"), self.calls(program, "hakmem", "superslab_refill")
            maps, unmaps, purges = (self.calls(program, "hakmem", name) for name in ("map", "unmap", "purge"))
            refilled = []
            for slot in (1, 2, 3):  # 180 MB, in slabs of 32 KiB, and more than is held back
                program.do(f"alloc {slot} 60000 1000")
                refilled += refills.take()
            taken = slabs.take()
            self.assertAlmostEqual(sum(size for _, size, _ in taken), 180000 * 1024, delta=MIB)
            self.assertTrue(all(address % 32768 == 0 for address, _, _ in taken))
            superslabs = sum(is_mapped for _, _, is_mapped in taken)
            self.assertAlmostEqual(superslabs, 180000 * 1024 / (2 * MIB), delta=2)
            self.assertAlmostEqual(sum(bytes_ for _, bytes_ in maps.take()), superslabs * 2 * MIB, delta=8 * MIB)
            self.assertAlmostEqual(sum(count for size, count, _ in refilled if size == 1024), 180000, delta=128)
            self.assertLessEqual({source for _, _, source in refilled}, set(range(5)))
            program.do("alloc 4 2 100000000")
            # A chunk of metadata may have been due, too.
            self.assertEqual([bytes_ // 100_000_000 for _, bytes_ in maps.take() if bytes_ > 4 * MIB], [1, 1])
            for slot in (4, 3, 2, 1):
                program.do(f"free {slot} 1")
            purged = sum(bytes_ for bytes_, in purges.take())
            self.assertTrue(32 * MIB < purged <= 180 * MIB, purged)
            self.assertTrue(unmaps.take())


class Scripts(unittest.TestCase):
    """The scripts run as they stand; bpftrace comes with `./run test --long`."""

    SHOWN = {"refills": (r"@refills_by_source\[fresh carve\]: [1-9]", r"@refills_by_block_bytes\[1024\]: [1-9]",
                         r"@slabs_taken_by_thread\[exporter_worklo, \d+\]: [1-9]", r"@slab_bytes_taken: [1-9]\d{6}"),
             "memory": (r"@mapped: [1-9]\d{6}", r"@allocated_by_thread\[exporter_worklo, \d+\]: [1-9]\d{6}",
                        r"@live: [1-9]\d{6}", r"@sampled_sizes: *\n\[512, 1K\)")}

    def test_they_show_what_a_program_does(self):
        tool = shutil.which("bpftrace")
        self.assertTrue(tool, "bpftrace is not installed")
        if subprocess.run([tool, "-e", "BEGIN { exit(); }"], capture_output=True, check=False).returncode:
            self.skipTest("no program of BPF can be loaded here")
        with Program(HAKMEM_SAMPLE_BYTES="10000", listen=False) as program, tempfile.TemporaryDirectory() as folder:
            program.do("alloc 0 10 1000")
            outputs = {name: pathlib.Path(folder, name) for name in self.SHOWN}
            tools = [subprocess.Popen([tool, "-o", str(output), "-p", str(program.pid), str(SCRIPTS / f"{name}.bt"),
                                       library()])
                     for name, output in outputs.items()]

            def shown(name, row):
                return outputs[name].exists() and re.search(row, outputs[name].read_text(encoding="utf-8"))

            def all_of_it():
                program.do("alloc 1 5000 1000")
                return all(shown(name, row) for name, rows in self.SHOWN.items() for row in rows[:3])

            try:
                wait_until(all_of_it, "what the scripts print every five seconds", 30)
            finally:
                for process in tools:
                    process.send_signal(signal.SIGINT)
                    process.wait(20)
            for name, rows in self.SHOWN.items():
                for row in rows:
                    self.assertTrue(shown(name, row), (name, row, outputs[name].read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
