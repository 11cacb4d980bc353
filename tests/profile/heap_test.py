#!/usr/bin/env python3
"""The heap profile: estimates against what programs are known to hold, on several threads, over realloc and fork."""

import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(__file__))
from harness import *
from pprof import Profile

MIB = 1 << 20
FREQUENT = {"HAKMEM_SAMPLE_BYTES": "2048"}


def profile(program, kind="heap", query=""):
    with urllib.request.urlopen(f"http://127.0.0.1:{program.port}/debug/pprof/{kind}{query}", timeout=20) as answer:
        return Profile(answer.read())


class Sites(unittest.TestCase):
    """Three call sites: sites::one, two and three."""

    def start(self, *commands, wait=True, **variables):
        program = Program(built("tests/profile_sites"), **(FREQUENT | variables))
        self.addCleanup(program.__exit__)
        for command in commands:
            program.do(command)
        return program.wait_for_endpoint() if wait else program

    def expect(self, found, kind, function, exact, share=0.05):
        estimate = found.total(kind, function)
        print(f"{kind} of {function}: {estimate:,} for {exact:,}, {100 * (estimate / exact - 1):+.1f} %")
        self.assertLess(abs(estimate - exact), share * exact, f"{kind} of {function}: {estimate} instead of {exact}")

    def test_each_site_holds_what_it_holds(self):
        # Some 10,000 samples each, of small, mixed and large blocks.
        program = self.start("keep one 400000 48", "keep two 100000 16", "keep two 20000 1000", "keep two 2000 5000",
                             "keep three 12000 3000")
        heap = profile(program)
        self.expect(heap, "inuse_requested", "sites::one(unsigned long)", 400000 * 48)
        self.expect(heap, "inuse_objects", "sites::one(unsigned long)", 400000)
        self.expect(heap, "inuse_requested", "sites::two(unsigned long)", 1600000 + 20000000 + 10000000)
        self.expect(heap, "inuse_objects", "sites::two(unsigned long)", 122000, 0.15)  # 16 bytes: one in 128 is sampled
        self.expect(heap, "inuse_requested", "sites::three(unsigned long)", 36000000)
        self.expect(heap, "inuse_objects", "sites::three(unsigned long)", 12000)
        # The rounding to size classes is told apart from what was asked for.
        self.assertGreaterEqual(heap.total("inuse_space"), heap.total("inuse_requested"))
        self.assertEqual(heap.period, 2048)
        self.assertEqual(heap.default, "inuse_space")

    def test_stacks_go_down_to_main_and_have_names_and_builds(self):
        program = self.start("keep one 40000 100", "threads two 10000 100")
        heap = profile(program)
        for function, bottom in (("sites::one(unsigned long)", "main"), ("sites::two(unsigned long)", None)):
            stacks = [stack for stack, _ in heap.samples if function in stack]
            self.assertTrue(stacks)
            for stack in stacks:
                # malloc itself is not in the stack: the site is innermost.
                self.assertEqual(stack[0], function)
                if bottom:
                    self.assertIn(bottom, stack)
                else:
                    self.assertTrue(any(name.startswith(("start_thread", "clone", "0x")) for name in stack[-3:]), stack)
        own = [mapping for mapping in heap.mappings.values() if mapping[2].endswith("profile_sites")]
        self.assertTrue(own)
        self.assertRegex(own[0][3], "^[0-9a-f]{40}$")

    def test_what_is_freed_leaves_the_heap_and_stays_in_allocs_and_peak(self):
        program = self.start("keep one 20000 1000", "keep two 20000 500", "drop one", "churn three 40000 600")
        heap, allocs, peak = profile(program), profile(program, "allocs"), profile(program, "peak")
        self.assertEqual(heap.total("inuse_space", "sites::one(unsigned long)"), 0)
        self.assertEqual(heap.total("inuse_space", "sites::three(unsigned long)"), 0)
        self.expect(heap, "inuse_requested", "sites::two(unsigned long)", 10000000)
        for site, exact in (("one", 20000000), ("two", 10000000), ("three", 24000000)):
            self.expect(allocs, "alloc_requested", f"sites::{site}(unsigned long)", exact)
        for site, exact in (("one", 20000000), ("two", 10000000)):
            self.expect(peak, "peak_requested", f"sites::{site}(unsigned long)", exact)
        self.assertLess(peak.total("peak_space", "sites::three(unsigned long)"), 100000)
        lifetimes = profile(program, "lifetimes")
        self.expect(lifetimes, "freed_objects", "sites::three(unsigned long)", 40000)
        mean = {site: lifetimes.total("lifetime", f"sites::{site}(unsigned long)") /
                max(1, lifetimes.total("freed_objects", f"sites::{site}(unsigned long)")) for site in ("one", "three")}
        self.assertGreater(mean["one"], 10 * mean["three"])

    def test_lifetimes_by_size_class_and_by_call_site(self):
        program = self.start("keep one 40000 100")
        time.sleep(0.3)  # with the time that the endpoint took they have lived for more than a second
        for command in ("drop one", "churn three 40000 600"):
            program.do(command)
        name = "hakmem_sampled_lifetime_seconds"
        scrape = program.scrape()
        freed_by = lambda size, seconds: max(value for key, value in scrape.matching(f"{name}_bucket", size_class=size).items()
                                             if float(dict(key[1])["le"]) <= seconds)
        samples = {size: scrape.value(f"{name}_count", size_class=size) for size in ("112", "640")}
        self.assertGreater(samples["112"], 1000)
        self.assertGreater(scrape.value(f"{name}_sum", size_class="112"), 0.8 * samples["112"])
        self.assertLess(freed_by("112", 0.3), 100)  # what the program and its libraries freed on the way
        self.assertGreater(samples["640"], 5000)
        self.assertGreater(freed_by("640", 0.1), 0.9 * samples["640"])
        shown = {dict(labels)["size_class"] for _, labels in scrape.matching(f"{name}_count")}
        self.assertLess(len(shown), 8, "only classes of which many samples were freed have their own")
        lifetimes = profile(program, "lifetimes")
        for site, exact, age in (("one", 40000, "1 s to 1 min"), ("three", 40000, "below 1 ms")):
            by_age = lifetimes.by_label("lifetime", "freed_objects", f"sites::{site}(unsigned long)")
            self.assertLess(abs(by_age[age] - exact), 0.1 * exact, by_age)

    def test_classes_that_come_after_a_start_with_many_have_their_lifetimes(self):
        shown = lambda scrape: {dict(labels)["size_class"]
                                for _, labels in scrape.matching("hakmem_sampled_lifetime_seconds_count")} - {"other"}
        # Some 100 samples of each of 32 classes, of which none has 256.
        sizes = [(4 + step) << doubling for doubling in range(5, 13) for step in range(4)]
        program = self.start(*[f"churn one {max(100, 100 * 2048 // size)} {size}" for size in sizes])
        self.assertEqual(len(shown(program.scrape())), 12)
        for command in ("churn two 40 400000", "churn three 40 3000000", "churn four 60000 20"):
            program.do(command)
        last = shown(program.scrape())
        self.assertLessEqual({"32", "large", "huge"}, last)
        self.assertLess(len(last), 24)

    def test_threads(self):
        program = self.start("threads one 20000 400", "threads two 5000 3000")
        heap = profile(program)
        self.expect(heap, "inuse_requested", "sites::one(unsigned long)", 4 * 20000 * 400)
        self.expect(heap, "inuse_requested", "sites::two(unsigned long)", 4 * 5000 * 3000)

    def test_blocks_without_a_class(self):
        # Large and huge ones are samples at this interval, and each is freed as one.
        program = self.start("keep one 40 400000", "keep two 20 3000000", "keep three 10 600000", "drop three",
                             "grow three 64 67108864")
        heap = profile(program)
        self.expect(heap, "inuse_requested", "sites::one(unsigned long)", 40 * 400000, 0.001)
        self.expect(heap, "inuse_requested", "sites::two(unsigned long)", 20 * 3000000, 0.001)
        grown = [values["inuse_requested"] for stack, values in heap.samples if any("three" in name for name in stack)]
        self.assertEqual(sum(grown), 64 * MIB)
        program.do("drop three")
        self.assertEqual(profile(program).total("inuse_space", "sites::three(unsigned long)"), 0)

    def test_growth_by_realloc_is_unbiased(self):
        program = self.start(*["grow one 64 16777216"] * 30, HAKMEM_SAMPLE_BYTES=str(4 * MIB))
        # Few samples of 4 MiB: each block of 16 MiB is one with p = 0.98.
        heap = profile(program)
        grown = sum(values["inuse_requested"] for stack, values in heap.samples if any("one" in name for name in stack))
        self.assertLess(abs(grown - 30 * 16 * MIB), 0.12 * 30 * 16 * MIB)

    def test_a_difference_over_a_time(self):
        program = self.start("keep one 20000 1000")
        url = f"http://127.0.0.1:{program.port}/debug/pprof/heap?seconds=4"
        with subprocess.Popen(["curl", "-sf", url], stdout=subprocess.PIPE) as client:
            time.sleep(1.5)  # the first of the two profiles has been taken by then
            program.do("keep two 20000 1000")
            program.do("drop one")
            self.assertTrue(is_serving(program.port), "others are answered meanwhile")
            content, _ = client.communicate(timeout=30)
        difference = Profile(content)
        self.expect(difference, "inuse_requested", "sites::two(unsigned long)", 20000000)
        self.assertLess(difference.total("inuse_requested", "sites::one(unsigned long)"), -18000000)

    def test_wrong_questions(self):
        program = self.start()
        for path, status in (("heap?seconds=0", 400), ("heap?seconds=x", 400), ("heap?seconds=301", 400),
                             ("peak?seconds=1", 400), ("nothing", 404)):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                profile(program, path)
            self.assertEqual(refused.exception.code, status, path)
            refused.exception.close()

    def test_a_child_goes_on_with_the_samples_of_its_parent(self):
        # Forked within the first second, the child serves when its parent has ended.
        program = self.start("keep one 20000 1000", "keep two 20000 500", wait=False)
        program.do("fork")
        program.do("drop one")
        program.do("keep three 20000 800")
        self.assertEqual(program.end(), 0)

    def test_fragmentation_is_laid_at_the_door_of_who_pins_slabs(self):
        # Site one holds one block in a hundred of slabs that are free otherwise; site three a hundred
        # times as many of the same size, in slabs that are full.
        program = self.start("keep three 40000 256", *["keep two 250 256", "keep one 3 256"] * 160, "drop two",
                             "keep four 20000 1000")
        found = profile(program, "fragmentation")
        pinned = found.total("pinned_space", "sites::one(unsigned long)")
        self.assertGreater(pinned, 4 * MIB)
        self.assertGreater(pinned, 0.8 * found.total("pinned_space"))

    def test_the_command_line_saves_a_profile(self):
        program = self.start("keep one 20000 1000")
        with tempfile.TemporaryDirectory() as folder:
            for number, process in enumerate((str(program.pid), f"127.0.0.1:{program.port}")):
                file = os.path.join(folder, f"{number}.pb.gz")
                subprocess.run([built("hakmem"), "profile", process, "--type", "allocs", "-o", file], check=True,
                               timeout=60)
                with open(file, "rb") as content:
                    found = Profile(content.read())
                self.expect(found, "alloc_requested", "sites::one(unsigned long)", 20000000)
        for arguments, line in (([], "usage: hakmem profile"),
                                ([str(os.getpid()), "-o", "/dev/null"], "has no endpoint"),
                                (["127.0.0.1:1", "-o", "/dev/null"], "no profile from 127.0.0.1:1"),
                                ([str(program.pid), "--type", "x", "-o", "/dev/null"], "usage: hakmem profile")):
            result = subprocess.run([built("hakmem"), "profile", *arguments], text=True, capture_output=True,
                                    timeout=60, check=False)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(line, result.stderr)
            self.assertEqual(len(lines(result.stderr)), 1)


class RealPrograms(unittest.TestCase):
    def test_python(self):
        script = ("import sys; kept = [bytearray(5000) for _ in range(20000)]; print('done', flush=True); "
                  "sys.stdin.read()")
        with Program(shutil.which("python3"), "-c", script, PYTHONMALLOC="malloc", **FREQUENT) as program:
            self.assertEqual(program.process.stdout.readline(), "done\n")
            heap = profile(program.wait_for_endpoint())
            self.assertGreater(heap.total("inuse_requested"), 0.95 * 100e6)
            self.assertTrue(any("main" in name or "Py" in name for stack, _ in heap.samples for name in stack))

    def test_redis(self):
        server = shutil.which("redis-server")
        with tempfile.TemporaryDirectory() as folder:
            socket_path = os.path.join(folder, "s")
            with Program(server, "--port", "0", "--unixsocket", socket_path, "--save", "", "--dir", folder,
                         **FREQUENT) as program:
                program.wait_for_endpoint()
                commands = "".join(f"SET key:{i} {'x' * 1000}\n" for i in range(20000))
                subprocess.run(["redis-cli", "-s", socket_path], input=commands, text=True, stdout=subprocess.DEVNULL,
                               check=True, timeout=60)
                heap = profile(program)
                self.assertGreater(heap.total("inuse_requested"), 20e6)
                deep = [stack for stack, _ in heap.samples if len(stack) > 4]
                self.assertTrue(deep)


if __name__ == "__main__":
    main()
