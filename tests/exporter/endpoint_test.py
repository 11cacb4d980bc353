#!/usr/bin/env python3
"""The embedded endpoint: its answers, and bad input of every kind, each with one line on stderr at most."""

import tempfile

from harness import *


def raw(port, data, timeout=5):
    """What the endpoint answers to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(data)
        client.settimeout(timeout)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = Program().wait_for_endpoint()

    @classmethod
    def tearDownClass(cls):
        cls.program.__exit__()

    def test_paths(self):
        self.assertEqual(get(self.program.port, "/healthz"), "ok\n")
        self.assertTrue(get(self.program.port).startswith("# HELP hakmem_"))
        for path in ("/", "/metricsx", "/metrics/", "//metrics"):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                get(self.program.port, path)
            self.assertEqual(refused.exception.code, 404)
            refused.exception.close()

    def test_headers(self):
        answer = raw(self.program.port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200 OK\r\n", head)
        self.assertIn(b"Content-Type: text/plain; version=0.0.4; charset=utf-8", head)
        self.assertIn(b"Content-Length: %d" % len(body), head)
        self.assertEqual(raw(self.program.port, b"HEAD /healthz HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2], b"")

    def test_what_answers_is_in_no_figure_of_the_programs_heap(self):
        self.program.do("alloc 0 3000 1000")
        before = self.program.scrape()
        for path in ["/metrics"] * 20 + ["/debug/pprof/heap", "/debug/pprof/fragmentation", "/debug/leaks"]:
            self.assertIn(b" 200 OK", raw(self.program.port, f"GET {path} HTTP/1.1\r\n\r\n".encode())[:15])
        after = self.program.scrape()
        for family in ("allocations_total", "refills_total", "refill_objects_total", "collected_objects_total",
                       "live_objects", "live_bytes", "slabs", "slab_bytes", "superslabs", "superslab_refill_seconds_count",
                       "thread_cache_bytes", "threads", "threads_started_total", "huge_live_objects", "huge_allocations_total",
                       "kernel_calls_total", "first_touched_pages_total", "lock_acquisitions_total"):
            self.assertTrue(before.matching(f"hakmem_{family}"), family)
            self.assertEqual(after.matching(f"hakmem_{family}"), before.matching(f"hakmem_{family}"), family)
        for part in ("live", "internal_fragmentation", "thread_cache", "slab_free", "empty_slab", "retained", "metadata"):
            self.assertEqual(after.value("hakmem_resident_bytes", part=part),
                             before.value("hakmem_resident_bytes", part=part), part)
        self.assertEqual(after.value("hakmem_threads"), 1)
        self.program.do("free 0 1")

    def test_malformed_requests_are_survived(self):
        for data, status in ((b"\r\n\r\n", 400), (b"nonsense\r\n\r\n", 400), (b"GET\r\n\r\n", 400),
                             (b"GET /metrics\r\n\r\n", 400), (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
                             (b"GET " + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 431), (b"\0\xff" * 2000 + b"\r\n\r\n", 400),
                             (b"GET metrics HTTP/1.1\r\n\r\n", 400), (b"GET /?pid= HTTP/1.1\r\n\r\n", 404),
                             (b"GET /metrics?pid=99999999999999999999 HTTP/1.1\r\n\r\n", 200)):
            answer = raw(self.program.port, data)
            self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), (data[:40], answer[:40]))
        self.assertEqual(get(self.program.port, "/healthz"), "ok\n")

    def test_idle_clients_do_not_keep_a_scrape_out(self):
        idle = [socket.create_connection(("127.0.0.1", self.program.port)) for _ in range(40)]
        for client in idle[::2]:
            client.sendall(b"GET /metr")
        start = time.monotonic()
        self.program.scrape()
        self.assertLess(time.monotonic() - start, 2)
        for client in idle:
            client.settimeout(5)
            try:
                self.assertEqual(client.recv(10), b"", "it should have been closed")
            except ConnectionResetError:
                pass
            client.close()

    def test_a_slow_reader_gets_it_all(self):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.program.port))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = b""
            while chunk := client.recv(8192):
                answer += chunk
                time.sleep(0.005)
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d" % len(body), head)


class BadInput(unittest.TestCase):
    def runs_with(self, expected, serves=False, command=None, **variables):
        """The workload runs to its end unharmed and says exactly the expected line."""
        listen = variables.pop("HAKMEM_LISTEN", None)
        if listen is not None:
            variables["HAKMEM_LISTEN"] = listen
        with Program(*(command or [workload()]), listen=serves, **variables) as program:
            program.do("alloc 0 3000 1000")
            if serves:
                program.wait_for_endpoint()
                program.scrape().lint()
            elif expected:
                wait_until(program.error_text, "the line on stderr")
                time.sleep(0.3)
            else:
                time.sleep(1.5)
            program.do("free 0 1")
            self.assertEqual(program.end(), 0)
            self.assertEqual(lines(program.error_text()), [expected] if expected else [])

    def test_an_address_that_is_none(self):
        for value in ("nonsense", "127.0.0.1", "[::1]:19464", "127.0.0.1:0"):
            self.runs_with(f"hakmem: HAKMEM_LISTEN={value} is not an IPv4 address and a port such as "
                           "127.0.0.1:19464; no endpoint", HAKMEM_LISTEN=value)

    def test_a_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.runs_with(f"hakmem: no endpoint: cannot listen on 127.0.0.1:{port}: Address already in use",
                           HAKMEM_LISTEN=f"127.0.0.1:{port}")

    def test_an_address_of_another_machine(self):
        self.runs_with("hakmem: no endpoint: cannot listen on 192.0.2.1:19464: Cannot assign requested address",
                       HAKMEM_LISTEN="192.0.2.1:19464")

    def test_a_port_without_the_right_to_it(self):
        first = int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="utf-8"))
        if first <= 81:
            self.skipTest("every port is free to everybody here")
        command = [workload()]
        if os.geteuid() == 0:
            command = ["setpriv", "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service", "--"] + command
        self.runs_with("hakmem: no endpoint: cannot listen on 127.0.0.1:81: Permission denied", command=command,
                       HAKMEM_LISTEN="127.0.0.1:81", HAKMEM_PROGRAM="exporter_worklo")

    def test_other_variables(self):
        self.runs_with("hakmem: HAKMEM_SAMPLE_BYTES=often is not a number of bytes; the default is used",
                       HAKMEM_SAMPLE_BYTES="often")
        self.runs_with("hakmem: HAKMEM_VERBOSE is not a variable of hakmem and is ignored", HAKMEM_VERBOSE="1")

    def test_a_folder_of_pages_that_is_missing(self):
        self.runs_with("hakmem: no stats page in /nonexistent: it does not exist; the endpoint works, hakmem-exporter "
                       "does not see this process", serves=True, HAKMEM_PAGES="/nonexistent")

    def test_a_folder_of_pages_that_is_full(self):
        if os.geteuid() != 0:
            self.skipTest("a small file system can be mounted by root alone")
        with tempfile.TemporaryDirectory() as folder:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode:
                self.skipTest("mounting is not permitted here")
            try:
                self.runs_with(f"hakmem: no stats page in {folder}: too little of it is free; the endpoint works, "
                               "hakmem-exporter does not see this process", serves=True, HAKMEM_PAGES=folder)
            finally:
                subprocess.run(["umount", folder], check=True)

    def test_without_dev_shm(self):
        hide = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs -o ro tmpfs /dev/shm && exec \"$@\"", "sh"]
        if subprocess.run([*hide, "true"], check=False, capture_output=True).returncode:
            self.skipTest("mount namespaces are not permitted here")
        self.runs_with("hakmem: no stats page in /dev/shm: it is read-only; the endpoint works, hakmem-exporter does "
                       "not see this process", serves=True, HAKMEM_PAGES="/dev/shm", LD_PRELOAD="",
                       command=[*hide, "env", f"LD_PRELOAD={library()}", workload()])

    def test_only_the_named_program_serves(self):
        with Program(HAKMEM_PROGRAM="another") as program:
            program.do("alloc 0 100 100")
            time.sleep(1.5)
            self.assertFalse(is_serving(program.port))
            self.assertEqual(program.error_text(), "")
        with Program(HAKMEM_PROGRAM="exporter_worklo") as program:
            program.wait_for_endpoint()

    def test_a_process_of_less_than_a_second_does_not_serve(self):
        with Program("true") as program:
            self.assertEqual(program.process.wait(10), 0)
            self.assertEqual(program.error_text(), "")

    def test_a_child_of_the_first_second_goes_on(self):
        # timeout forks at once, and allocates nothing before. In its child a thread waits whether to serve;
        # its creation allocates, which is sampled here, for which the fork has to have opened all locks.
        with Program("timeout", "5", "true", HAKMEM_SAMPLE_BYTES="1") as program:
            self.assertEqual(program.process.wait(10), 0)
            self.assertEqual(program.error_text(), "")


if __name__ == "__main__":
    main()
