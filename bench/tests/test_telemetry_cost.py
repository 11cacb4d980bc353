"""The table of what telemetry costs: known samples, and the scraper against a real listener."""

import http.server
import sys
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from allocators import HAKMEM
from telemetry_cost import RSS_ALLOWANCE, START, TELEMETRY, Scraper, lengthened, rows_of, table_of
from workloads import WORKLOADS


def sample(cpu: float, rss: int = 10 << 20) -> dict:
    return {"time_seconds": cpu / 2, "cpu_seconds": cpu, "peak_rss_bytes": rss}


SAMPLES = {
    START: {HAKMEM: [sample(0.01)] * 3, TELEMETRY: [sample(0.05)] * 3},
    # Slower from pair to pair, as under a load of others, and a tenth more in each pair.
    "drifting": {
        HAKMEM: [sample(1.01), sample(2.01), sample(4.01)],
        TELEMETRY: [sample(1.15), sample(2.25), sample(4.45, (10 << 20) + RSS_ALLOWANCE)],
    },
}


class TableTest(unittest.TestCase):
    def test_ratios_are_those_of_pairs(self):
        (row,) = rows_of(SAMPLES)
        self.assertAlmostEqual(row.cpu, 2.25 / 2.01)
        self.assertAlmostEqual(row.cpu_low, 4.45 / 4.01)
        self.assertAlmostEqual(row.cpu_high, 1.15 / 1.01)
        self.assertAlmostEqual(row.cpu_after_start, 1.1)
        self.assertAlmostEqual(row.rss, 0.9)

    def test_the_start_stands_for_itself(self):
        table = table_of(SAMPLES)
        self.assertNotIn(f"| {START}", table)
        self.assertIn("Start of a process: 10.0 ms of CPU time, with an endpoint 50.0 ms.", table)
        self.assertIn("| geometric mean | 1.119 | 1.119 | | 1.100 | 0.900 |", table)


class LengthTest(unittest.TestCase):
    def test_each_workload_can_be_longer_with_the_heap_that_it_has(self):
        for workload in WORKLOADS:
            longer = lengthened(workload, 4)
            self.assertEqual(longer.heap, workload.heap)
            for short, long in zip(workload.full, longer.full, strict=True):
                name, number = short.split("=")
                self.assertEqual(long, f"{name}={4 * int(number)}")


class ScraperTest(unittest.TestCase):
    def test_scrapes_what_comes_up(self):
        asked = threading.Event()

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                if self.path == "/metrics":
                    asked.set()

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
            with Scraper(server.server_port) as scraper:
                threading.Thread(target=server.handle_request).start()
                self.assertTrue(asked.wait(10))
            self.assertEqual(scraper.scrapes, 1)


if __name__ == "__main__":
    unittest.main()
