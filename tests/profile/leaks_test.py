#!/usr/bin/env python3
"""Leak suspects: of sites that leak, fill a cache, swing and stand still, the one that leaks alone remains."""

from harness import *

LEAK, FILLING, SWINGING, CACHE = ("one", "two", "three", "four")


class Leaks(unittest.TestCase):
    def setUp(self):
        self.program = Program(built("tests/profile_sites"), HAKMEM_SAMPLE_BYTES="2048")
        self.addCleanup(self.program.__exit__)
        self.rounds = 0
        self.start = time.monotonic()

    def live_on(self, *growing):
        """A third of a second in the life of the program."""
        for site in growing:
            self.program.do(f"keep {site} 100 1000")
        self.program.do(f"replace {CACHE} 1000 1000")
        self.program.do(f"keep {SWINGING} 3000 1000")
        if self.rounds % 2:
            self.program.do(f"drop {SWINGING}")
        self.rounds += 1
        time.sleep(0.3)

    def suspects(self):
        """Bytes by site."""
        scrape = self.program.scrape()
        found = {dict(key[1])["site"]: value for key, value in scrape.matching("hakmem_leak_suspect_bytes").items()}
        self.assertEqual(scrape.value("hakmem_leak_suspects"), len(found))
        for site in found:
            age = scrape.value("hakmem_leak_suspect_age_seconds", site=site)
            self.assertTrue(8 <= age <= time.monotonic() - self.start, f"{site} is {age} s old")
        return found

    def live_until(self, wanted, *growing):
        def is_so():
            self.live_on(*growing)
            self.last = self.suspects()
            return {site.split("+")[0] for site in self.last} == {f"sites::{name}" for name in wanted}
        wait_until(is_so, f"suspects {wanted}", 60)

    def test_the_five_that_grew_most_are_series_and_all_are_on_the_page(self):
        # Eight sites: each of four functions called at two places.
        lives = {"threads": 60, **dict.fromkeys(("one", "two", "three"), 100), "four": 160}
        program = self.program.wait_for_endpoint()

        def grow():
            for name in ("one", "two", "three", "four"):
                program.do(f"keep {name} {lives[name]} 1000")
                program.do(f"threads {name} {lives['threads']} 1000")
            time.sleep(0.2)
            return program.scrape().value("hakmem_leak_suspects") == 8

        wait_until(grow, "eight suspects", 60)
        scrape = program.scrape()
        shown = [dict(labels)["site"] for _, labels in scrape.matching("hakmem_leak_suspect_bytes")]
        self.assertEqual(len(shown), 5)
        self.assertEqual([site.split("+")[0] for site in shown if " < sites::run+" in site], ["sites::four"])
        self.assertEqual(get(program.port, "/debug/leaks").count("\n  grown by "), 8)

    def test_only_a_leak_remains_a_suspect(self):
        self.program.do(f"keep {CACHE} 20000 1000")
        self.program.wait_for_endpoint()
        self.assertEqual(get(self.program.port, "/debug/leaks"), "No call site keeps growing.\n")
        self.live_until({LEAK, FILLING}, LEAK, FILLING)
        # What has filled up is none any more.
        self.live_until({LEAK}, LEAK)
        for _ in range(4):
            self.live_on(LEAK)
            self.assertEqual(set(self.suspects()), set(self.last))
        ((site, bytes_held),) = self.suspects().items()
        self.assertRegex(site, r"^sites::one\+0x[0-9a-f]+ < sites::keep\+0x[0-9a-f]+ < sites::run\+0x[0-9a-f]+$")
        self.assertLess(abs(bytes_held - self.rounds * 100 * 1024), 0.1 * bytes_held)
        page = get(self.program.port, "/debug/leaks")
        self.assertIn(f"\n{site}\n  grown by ", page)
        self.assertRegex(page, r"\n    main\+0x[0-9a-f]+\n")
        for name in (FILLING, SWINGING, CACHE):
            self.assertNotIn(f"sites::{name}", page)
        self.assertIn(" /debug/leaks", self.missing_page())

    def missing_page(self):
        with self.assertRaises(urllib.error.HTTPError) as missing:
            get(self.program.port, "/nothing")
        with missing.exception as answer:
            return answer.read().decode()


if __name__ == "__main__":
    main()
