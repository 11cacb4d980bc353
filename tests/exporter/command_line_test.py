#!/usr/bin/env python3
"""The hakmem command: run, report, top, check."""

import tempfile

from harness import *


def hakmem(*arguments, **variables):
    result = subprocess.run([built("hakmem"), *map(str, arguments)], env=environment(preload=False, **variables),
                            capture_output=True, text=True, timeout=30, check=False)
    return result.returncode, result.stdout, result.stderr


class CommandLine(unittest.TestCase):
    def test_help_and_wrong_uses(self):
        status, output, _ = hakmem("help")
        self.assertEqual(status, 0)
        for verb in ("run", "report", "top", "check", "config"):
            self.assertIn(f"\n  {verb} ", output)
        for arguments in ([], ["nonsense"], ["run"], ["run", "--listen", "x", "true"], ["report"], ["top", "x"], ["check"]):
            status, output, errors = hakmem(*arguments)
            self.assertEqual((status, output), (2, ""), arguments)
            self.assertTrue(errors)

    def test_run(self):
        status, output, errors = hakmem("run", "sh", "-c", "echo $LD_PRELOAD; exit 3", LD_PRELOAD="")
        self.assertEqual((status, output.strip(), errors), (3, library(), ""))
        self.assertEqual(hakmem("run", "/nonexistent")[0], 127)

    def test_run_with_an_endpoint(self):
        port = free_port()
        process = subprocess.Popen([built("hakmem"), "run", "--listen", f"127.0.0.1:{port}", workload()],
                                   env=environment(preload=False), stdin=subprocess.PIPE)
        try:
            wait_until(lambda: is_serving(port), "the endpoint")
            status, output, _ = hakmem("check", process.pid)
            self.assertEqual(status, 0)
            self.assertIn(f"endpoint: http://127.0.0.1:{port}/metrics", output)
        finally:
            process.stdin.close()
            self.assertEqual(process.wait(10), 0)

    def test_check_tells_what_is_missing(self):
        status, output, _ = hakmem("check", os.getpid())
        self.assertEqual((status, output), (1, "no library of hakmem is loaded\n"))
        with Program(listen=False) as program:
            program.do("try 10")
            status, output, _ = hakmem("check", program.pid)
            self.assertEqual(status, 1)
            self.assertIn(f"loaded: {library()}\nstats page: none", output)
        self.assertEqual(hakmem("check", 2 ** 22 + 1)[0], 2)

    def test_check_tells_who_serves(self):
        with Program() as program:
            program.wait_for_endpoint()
            child = program.do(f"fork {8 << 20}")
            expected = f"endpoint: that of process {program.pid}, which shows this one, too\n"
            wait_until(lambda: expected in hakmem("check", child)[1], "the child's parent in the output")
            program.do(f"reap {child}")
            program.do("forget_environment")
            status, output, _ = hakmem("check", program.pid)
            self.assertEqual(status, 0)
            self.assertIn("endpoint: yes, at the address it was started with", output)

    def test_report_and_top(self):
        with Program(HAKMEM_SAMPLE_BYTES="0") as program:
            program.wait_for_endpoint()
            program.do("alloc 0 20000 1000")
            program.do("free 0 2")
            scrape = program.scrape()
            for argument in (program.pid, program.page()):
                status, output, errors = hakmem("report", argument)
                self.assertEqual((status, errors), (0, ""))
                self.assertRegex(output, rf"^exporter_worklo \(pid {program.pid}\), hakmem [0-9.]+, telemetry build, measured \d s ago\n")
                for part in ("live", "internal_fragmentation", "slab_free", "outside", "unexplained"):
                    self.assertRegex(output, rf"\n  {part} +-?[0-9.]+ \w+ +-?[0-9.]+ %\n")
                total = scrape.value("hakmem_process_resident_bytes") / (1 << 20)
                self.assertIn(f"{total:.1f} MiB\n", output)
                self.assertRegex(output, r"\n +1024 +19\.\d MiB +9\.8 MiB .* (49|50)\.\d %\n")
                self.assertRegex(output, r"\n  carve +[0-9.]+ ms +[0-9.]+ %\n")
                self.assertIn(f"\nWho holds it: `hakmem profile {program.pid}`; ", output)
            program.do("churn 300")  # its figures are not measured anew for it
            spent, share = map(float, re.search(r"\nsuperslab_refill +([0-9.]+) ms +([0-9.]+) % of the CPU time\n",
                                                hakmem("report", program.pid)[1]).groups())
            self.assertAlmostEqual(spent / share / 10, cpu_seconds(program.pid), delta=0.05 + 0.05 * cpu_seconds(program.pid))
            status, output, _ = hakmem("top", "--once")
            self.assertEqual(status, 0)
            self.assertRegex(output, rf"\n +{program.pid} exporter_worklo +[0-9.]+ MiB +[0-9.]+ MiB ")

    def test_report_of_what_is_no_page(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" * 50000)
            file.flush()
            status, output, errors = hakmem("report", file.name)
            self.assertEqual((status, output), (2, ""))
            self.assertIn("is not a stats page that this version reads: not_a_page", errors)
        self.assertIn("has no stats page", hakmem("report", os.getpid())[2])
        self.assertIn("cannot be opened", hakmem("report", "/nonexistent")[2])


if __name__ == "__main__":
    main()
