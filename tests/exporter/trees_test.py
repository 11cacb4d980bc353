#!/usr/bin/env python3
"""Trees of processes in Python: multiprocessing, and a server that forks its workers before it serves."""

import contextlib
import tempfile

from harness import *

PYTHON = "/usr/bin/python3"

POOL = """if True:
    import multiprocessing, os, sys
    def work(number):
        blocks = [bytes(3000) for _ in range(1500)]
        return os.getpid()
    if __name__ == "__main__":
        with multiprocessing.Pool(3, maxtasksperchild=2) as pool:
            while os.read(0, 100):  # sys.stdin has a lock, which a worker that is forked meanwhile waits for
                print(*sorted(set(pool.map(work, range(6), 1))), flush=True)
"""

# As gunicorn does: the master listens, forks workers that accept, and puts a new one in the place of one that ends.
SERVER = """if True:
    import os, signal, socket, sys
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
    def work():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        kept = []
        while True:
            client, _ = listener.accept()
            kept.append([bytes(2000) for _ in range(1500)])
            del kept[:-3]
            client.recv(100)
            client.sendall(b"%d" % os.getpid())
            client.close()
    def start():
        child = os.fork()
        if child == 0:
            work()
        return child
    workers = {start() for _ in range(4)}
    def stop(*_):
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        for worker in workers:
            os.waitpid(worker, 0)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    while True:
        ended, _ = os.wait()
        workers.discard(ended)
        workers.add(start())
"""


def parent_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def listens(pid, port):
    """Whether a process holds a socket that listens on this port."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    return bool(inodes & {os.readlink(entry) for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir()})


def end_all(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


class Trees(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.pages = folder.name
        self.port = free_port()
        self.exporter = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{self.port}", "--young", "0",
                                          "--pages", self.pages], env=environment(preload=False), stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (self.exporter.terminate(), self.exporter.wait()))
        wait_until(lambda: is_serving(self.port), "hakmem-exporter")
        self.last = None

    def scrape(self):
        """A scrape of the machine in which no counter of a sum fell since the last one."""
        scrape = Scrape(get(self.port))
        for key, value in counters_of(self.last).items() if self.last else ():
            if dict(key[1]).get("pid", "other") == "other":
                self.assertGreaterEqual(scrape.values.get(key, -1), value, key)
        self.last = scrape
        return scrape

    def pids(self, scrape):
        shown = {dict(labels).get("pid") for name, labels in scrape.values if name == "hakmem_refills_total"}
        return shown - {None, "other"}

    def test_a_pool_of_multiprocessing(self):
        with Program(PYTHON, "-c", POOL, pages=self.pages, PYTHONMALLOC="malloc") as program:
            program.wait_for_endpoint()
            seen = set()
            for _ in range(6):
                workers = program.do("again").split()
                seen |= set(workers)
                scrape, own = self.scrape(), program.scrape()
                # A worker that has done its two tasks may have ended meanwhile.
                self.assertLessEqual(self.pids(own), seen)
                self.assertLessEqual(self.pids(scrape), seen | {str(program.pid)})
                for worker in workers:
                    with contextlib.suppress(FileNotFoundError):
                        self.assertFalse(listens(worker, program.port))
            self.assertGreater(len(seen), 6)
            for scrape in (self.scrape, program.scrape):

                def ended_are_counted(scrape=scrape):
                    # A worker that ends before a second has passed may have left no page.
                    program.do("again")
                    shown = scrape()
                    shown.lint()
                    return sum(shown.matching("hakmem_refills_total", pid="other", comm="python3").values()) > 10

                wait_until(ended_are_counted, "the refills of workers that have ended")
            self.assertEqual((program.end(), program.error_text()), (0, ""))
        self.assertFalse(self.pids(self.scrape()))

    def test_a_server_that_forks_its_workers_before(self):
        service = free_port()
        with Program(PYTHON, "-c", SERVER, str(service), pages=self.pages, PYTHONMALLOC="malloc") as program:
            program.wait_for_endpoint()

            def ask():
                with socket.create_connection(("127.0.0.1", service), timeout=10) as client:
                    client.sendall(b"hello")
                    return client.recv(100).decode()

            def all_are_shown():
                workers = {ask() for _ in range(12)}
                shown = self.pids(self.scrape())
                return len(workers & shown & self.pids(program.scrape())) >= 3 and workers

            workers = wait_until(all_are_shown, "the workers in both endpoints")
            for worker in workers:
                self.assertEqual(parent_of(worker), program.pid)
                self.assertFalse(listens(worker, program.port))
                # One that was forked in the parent's first second waits until that one serves, as a daemon would.
                wait_until(lambda: len(os.listdir(f"/proc/{worker}/task")) == 1, "a worker without a thread of ours")
            victim = sorted(workers)[0]
            os.kill(int(victim), signal.SIGKILL)
            wait_until(lambda: victim not in self.pids(self.scrape()) | self.pids(program.scrape()), "the end of a worker")
            self.assertGreater(self.last.value("hakmem_refills_total", pid="other", comm="python3"), 0)
            # The workers outlive a master that is killed, but not its endpoint.
            with open(f"/proc/{program.pid}/task/{program.pid}/children", encoding="ascii") as children:
                self.addCleanup(end_all, children.read().split())
            program.process.kill()
            program.process.wait()
            self.assertFalse(is_serving(program.port))
            left = {ask() for _ in range(12)}
            with socket.create_server(("127.0.0.1", program.port)):
                pass
            self.assertTrue(left & self.pids(self.scrape()), "the machine's exporter sees them still")
            self.assertEqual(program.error_text(), "")


if __name__ == "__main__":
    main()
