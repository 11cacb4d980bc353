#!/usr/bin/env python3
"""What an endpoint must not do to the program it is in."""

from harness import *


def signal_sets(pid):
    """What the process blocks, ignores and handles; 32 and 33 are the C library's own, for threads."""
    usable = ~(3 << 31)
    return {name: int(status_field(pid, name), 16) & usable for name in ("SigBlk", "SigIgn", "SigCgt")}


def open_descriptors(pid):
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def environment_of(pid):
    try:
        entries = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


class Signals(unittest.TestCase):
    def test_a_writer_whose_reader_left_dies_of_sigpipe(self):
        with Program("yes") as program:
            program.wait_for_endpoint()
            program.scrape()
            program.process.stdout.close()
            self.assertEqual(program.process.wait(10), -signal.SIGPIPE)

    def test_dispositions_and_masks_are_those_without_an_endpoint(self):
        with Program(listen=False) as plain, Program() as program:
            plain.do("alloc 0 1 1")
            program.wait_for_endpoint()
            for _ in range(3):
                program.scrape()
            # A client that goes away in the middle of an answer.
            with socket.create_connection(("127.0.0.1", program.port)) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                rude.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            program.scrape()
            self.assertEqual(signal_sets(program.pid), signal_sets(plain.pid))

    def test_signals_of_the_program_reach_its_own_threads_alone(self):
        with Program() as program:
            program.wait_for_endpoint()
            program.do("handle_signals")
            for _ in range(50):
                os.kill(program.pid, signal.SIGUSR1)
                time.sleep(0.002)
            handled = wait_until(lambda: program.do("signals") != "0 0" and program.do("signals"), "a signal")
            main, elsewhere = map(int, handled.split())
            self.assertGreater(main, 0)
            self.assertEqual(elsewhere, 0)
            others = [int(name) for name in os.listdir(f"/proc/{program.pid}/task") if int(name) != program.pid]
            self.assertEqual(len(others), 1, "one thread serves")
            blocked = int(status_field(program.pid, "SigBlk", others[0]), 16)
            for number in range(1, 32):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    self.assertTrue(blocked >> (number - 1) & 1, f"signal {number}")

    def test_sigterm_ends_it(self):
        with Program() as program:
            program.wait_for_endpoint()
            program.process.terminate()
            self.assertEqual(program.process.wait(10), -signal.SIGTERM)


class Descriptors(unittest.TestCase):
    def test_low_descriptors_stay_the_programs(self):
        with Program(listen=False) as plain, Program() as program:
            plain.do("alloc 0 1 1")
            program.wait_for_endpoint()
            program.scrape()
            time.sleep(1.2)  # the connection of the scrape is closed by then
            mine = open_descriptors(program.pid)
            self.assertEqual([fd for fd in mine if fd < 900], open_descriptors(plain.pid))
            self.assertEqual(len([fd for fd in mine if fd >= 900]), 1)

    def test_nothing_is_opened_or_started_where_nobody_listens(self):
        with Program(listen=False) as program:
            program.do("alloc 0 5000 1000")
            time.sleep(1.5)
            self.assertEqual(open_descriptors(program.pid), [0, 1, 2])
            self.assertEqual(len(os.listdir(f"/proc/{program.pid}/task")), 1)
            with open(f"/proc/{program.pid}/maps", encoding="utf-8") as maps:
                mapped = maps.read()
            self.assertNotIn("exporter-module", mapped)
            self.assertNotIn("prometheus", mapped)
            self.assertEqual(program.error_text(), "")

    def test_a_program_that_drops_capabilities_has_no_second_thread(self):
        """glibc would end it: the other thread may not follow it to another user. What it executes serves."""
        if os.geteuid() != 0:
            self.skipTest("only root changes the user")
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        for _ in range(20):
            with Program(*nobody, "true") as program:
                self.assertEqual((program.process.wait(10), program.error_text()), (0, ""))
        with Program(*nobody, "sleep", "60") as program:
            program.wait_for_endpoint()

    def test_a_daemon_that_closes_all_descriptors_keeps_its_connections_and_its_processor(self):
        with Program() as program:
            program.wait_for_endpoint()
            idle = socket.create_connection(("127.0.0.1", program.port))
            port = int(program.do("close_descriptors"))
            # The program's own socket has taken the numbers of the endpoint's.
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                    client.settimeout(5)
                    self.assertEqual(client.recv(100), b"host\n")
            idle.close()
            before = cpu_seconds(program.pid)
            time.sleep(1)
            self.assertLess(cpu_seconds(program.pid) - before, 0.2)
            self.assertFalse(is_serving(program.port))
            text = program.error_text()
            self.assertEqual(lines(text), [f"hakmem: the endpoint on 127.0.0.1:{program.port} ended: "
                                           "the program closed its socket"])
            self.assertEqual(program.do("try 100"), "block")
            self.assertEqual(len(os.listdir(f"/proc/{program.pid}/task")), 1)


    def test_a_program_that_has_used_up_its_descriptors_keeps_its_processor(self):
        script = """if True:
            import os, sys
            files = []
            for line in sys.stdin:
                try:
                    while line == "use\\n": files.append(os.dup(0))
                except OSError: pass
                if line == "close\\n":
                    while files: os.close(files.pop())
                print(len(files), flush=True)
            """
        with Program("sh", "-c", "ulimit -n 64; exec /usr/bin/python3 -c \"$0\"", script) as program:
            program.wait_for_endpoint()
            time.sleep(1.2)  # the connection is closed by then
            self.assertGreater(int(program.do("use")), 50)
            waiting = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(3)]
            for client in waiting:
                client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            before = cpu_seconds(program.pid)
            time.sleep(1)
            self.assertLess(cpu_seconds(program.pid) - before, 0.2)
            program.do("close")
            for client in waiting:
                client.settimeout(5)
                self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200 OK"))
                client.close()
            program.scrape()
            self.assertEqual(program.error_text(), "")


class Libraries(unittest.TestCase):
    def test_a_program_that_uses_the_same_library(self):
        with Program(built("tests/exporter_prometheus_user")) as program:
            for _ in range(2):
                self.assertEqual(program.do("go on"), "# TYPE own_metric untyped")
                self.assertEqual(program.process.stdout.readline(), " serialised\n")
                program.wait_for_endpoint()
                program.scrape().lint()
            self.assertEqual((program.end(), program.error_text()), (0, ""))

    def test_a_program_with_another_of_the_same_names_goes_on_without_an_endpoint(self):
        """Its functions would be called in place of the library's."""
        with Program(built("tests/exporter_prometheus_namesake")) as program:
            self.assertEqual(program.do("go on"), "own_metric serialised")
            wait_until(program.error_text, "the line on stderr")
            self.assertEqual(lines(program.error_text()),
                             ["hakmem: no endpoint: the program has a prometheus-cpp of its own; hakmem-exporter can show it"])
            self.assertFalse(is_serving(program.port))
            self.assertEqual((program.do("go on"), program.end()), ("own_metric serialised", 0))


class Fork(unittest.TestCase):
    def test_a_child_does_not_keep_the_socket(self):
        with Program() as program:
            program.wait_for_endpoint()
            idle = socket.create_connection(("127.0.0.1", program.port))
            child = int(program.do(f"fork {4 << 20}"))
            try:
                wait_until(lambda: not [fd for fd in open_descriptors(child) if fd >= 900], "a child without sockets", 5)
                program.process.kill()
                program.process.wait()
                self.assertFalse(is_serving(program.port))
                with socket.socket() as again:
                    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    again.bind(("127.0.0.1", program.port))
                    again.listen()
            finally:
                os.kill(child, signal.SIGKILL)
                idle.close()

    def test_a_child_is_shown_by_its_parent_and_starts_from_zero(self):
        with Program(HAKMEM_SAMPLE_BYTES="0") as program:
            program.wait_for_endpoint()
            program.do("alloc 0 20000 1000")
            child = program.do(f"fork {8 << 20}")
            scrape = wait_until(lambda: (found := program.scrape()).matching("hakmem_refills_total", pid=child) and found,
                                "the child's page")
            scrape.lint()
            self.assertEqual(scrape.value("hakmem_exporter_pages"), 1)
            series = [key for key in scrape.values if ("pid", child) in key[1]]
            self.assertLessEqual(len(series), 60)
            self.assertTrue(all(("comm", "exporter_worklo") in key[1] for key in series))
            # 8 MiB of its own, not the 20 MB that its parent had allocated before.
            full = program.scrape(f"?pid={child}")
            refilled = full.value("hakmem_refill_objects_total", pid=child, size_class="1024")
            self.assertAlmostEqual(refilled, 8192, delta=256)
            threads = os.listdir(f"/proc/{child}/task")
            self.assertEqual(len(threads), 1, "a child of a serving process starts no thread")
            program.do(f"reap {child}")
            ended = wait_until(lambda: (found := program.scrape()).matching("hakmem_refills_total", pid="other") and found,
                               "the totals of the ended child")
            self.assertEqual(ended.value("hakmem_exporter_pages"), 0)
            for page in pathlib.Path("/dev/shm").glob(f"hakmem.*.{child}.*"):
                page.unlink()  # kept for a report
            self.assertEqual(program.error_text(), "")

    def test_a_program_started_by_a_serving_one_stays_silent(self):
        script = "sleep 2; tail -f /dev/null & sleep 2.5; cat /proc/$!/task/*/comm; echo end; kill $!; exec 2>/dev/null; sleep 60"
        with Program("bash", "-c", script + " & wait") as program:
            program.wait_for_endpoint()
            self.assertEqual(program.process.stdout.readline().strip(), "tail")
            self.assertEqual(program.process.stdout.readline().strip(), "end", "no thread to serve")
            self.assertEqual(program.error_text(), "")

    def test_a_daemon_serves_itself(self):
        with Program(workload(), "daemon") as program:
            self.assertEqual(program.process.wait(10), 0)
            program.wait_for_endpoint()
            scrape = program.scrape()
            scrape.lint()
            pages = {int(page.name.split(".")[2]): page for page in pathlib.Path("/dev/shm").glob("hakmem.*")}
            daemons = [pid for pid in pages if pid != program.pid and environment_of(pid).get("HAKMEM_LISTEN")
                       == f"127.0.0.1:{program.port}"]
            self.assertEqual(len(daemons), 1)
            os.kill(daemons[0], signal.SIGKILL)
            pages[daemons[0]].unlink(missing_ok=True)

    def test_fork_while_scraped(self):
        with Program() as program:
            program.wait_for_endpoint()
            for _ in range(25):
                child = program.do("fork 2048")
                program.scrape()
                program.do(f"reap {child}")
            program.scrape()
            self.assertEqual(program.error_text(), "")


class Ends(unittest.TestCase):
    def test_the_page_goes_with_a_clean_exit_and_stays_after_a_kill(self):
        with Program() as program:
            program.wait_for_endpoint()
            self.assertTrue(program.page())
            program.do("alloc 0 100 100")
            program.process.stdin.write("exit 7\n")
            self.assertEqual(program.process.wait(10), 7)
            self.assertIsNone(program.page())
            self.assertEqual(program.error_text(), "")
        with Program() as program:
            program.wait_for_endpoint()
            program.process.kill()
            program.process.wait()
            self.assertTrue(program.page())

    def test_ending_while_scraped_is_orderly(self):
        for _ in range(5):
            with Program() as program:
                program.wait_for_endpoint()
                clients = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(4)]
                for client in clients:
                    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                self.assertEqual(program.end(), 0)
                self.assertEqual(program.error_text(), "")
                for client in clients:
                    client.close()


if __name__ == "__main__":
    main()
