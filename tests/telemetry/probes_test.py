#!/usr/bin/env python3
"""The USDT probes of the telemetry library: each is a nop with a note that tools can read, and the kernel counts them.

    probes_test.py BUILD_FOLDER [unittest arguments]
"""

import ctypes
import struct

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


class Counter:
    """The kernel's count of how often a process comes by a probe, with its semaphore raised meanwhile."""

    def __init__(self, pid, probe):
        self.files = []
        path = ctypes.create_string_buffer(library().encode())
        for name, address, _, semaphore, _ in notes():
            if name != probe:
                continue
            attributes = bytearray(128)
            counter = offset_in_file(semaphore) if semaphore else 0
            struct.pack_into("=IIQ", attributes, 0, int(UPROBE.read_text()), len(attributes), counter << 32)
            struct.pack_into("=QQ", attributes, 56, ctypes.addressof(path), offset_in_file(address))
            file = ctypes.CDLL(None, use_errno=True).syscall(
                SYS_PERF_EVENT_OPEN, (ctypes.c_char * len(attributes)).from_buffer(attributes), pid, -1, -1, 0)
            if file < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            self.files.append(file)

    def count(self):
        return sum(struct.unpack("=Q", os.read(file, 8))[0] for file in self.files)

    def close(self):
        for file in self.files:
            os.close(file)


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
class Counts(unittest.TestCase):
    def counter(self, program, *probe):
        counter = Counter(program.pid, probe)
        self.addCleanup(counter.close)
        return counter

    def test_samples(self):
        with Program(HAKMEM_SAMPLE_BYTES="10000", listen=False) as program:
            program.do("alloc 0 5000 1000")
            allocated, freed = self.counter(program, "otel_memory", "alloc"), self.counter(program, "otel_memory", "free")
            self.assertEqual((allocated.count(), freed.count()), (0, 0))
            program.do("alloc 1 20000 1000")  # some 2,000 samples
            self.assertAlmostEqual(allocated.count(), 2000, delta=300)
            self.assertEqual(freed.count(), 0)
            program.do("free 1 1")
            self.assertEqual(freed.count(), allocated.count())
            before = allocated.count()
            program.do("alloc 2 10 3000000")  # each is more than 300 times the mean
            program.do("free 2 1")
            self.assertEqual((allocated.count(), freed.count()), (before + 10, before + 10))
            allocated.close()
            freed.close()
            allocated.files = freed.files = []
            program.do("alloc 3 5000 1000")  # and nobody listens any more

    def test_the_slow_path(self):
        with Program(HAKMEM_SAMPLE_BYTES="0", listen=False) as program:
            program.do("alloc 0 10 1000")
            refills, slabs = self.counter(program, "hakmem", "refill"), self.counter(program, "hakmem", "superslab_refill")
            maps, unmaps, purges = (self.counter(program, "hakmem", name) for name in ("map", "unmap", "purge"))
            program.do("alloc 1 180000 1000")  # 180 MB, in slabs of 64 KiB, and more than is held back
            self.assertAlmostEqual(slabs.count(), 180000 / 64, delta=180)
            self.assertGreater(refills.count(), slabs.count())
            self.assertAlmostEqual(maps.count(), 92, delta=12)  # superslabs of 2 MiB, and some of the program's own
            before = maps.count()
            program.do("alloc 2 2 100000000")
            self.assertEqual(maps.count(), before + 2)
            program.do("free 2 1")
            program.do("free 1 1")
            self.assertGreater(purges.count(), 0)
            self.assertGreater(unmaps.count(), 0)


if __name__ == "__main__":
    main()
