"""memcached under the preload: the suite of its protocol, and clients that check each answer while it evicts."""

import random
import re
import signal
import socket
import threading

import harness

CLIENTS = 6
REQUESTS = 6000
STOPPED = 0  # by SIGTERM, on which it ends in order


def content(key, version):
    """What a client stores: up to 200 KB that follow from key and version."""
    source = random.Random(f"{key} {version}")
    return (b"%d " % version + source.randbytes(40)) * int(2 ** source.uniform(0, 12))


class Client(threading.Thread):
    """Stores, changes, reads and deletes keys of its own; what it reads is what it stored last, or was evicted."""

    def __init__(self, port, number):
        super().__init__()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.stream = self.socket.makefile("rwb")
        self.number = number
        self.hits = 0
        self.failure = None

    def ask(self, text):
        self.stream.write(text)
        self.stream.flush()
        return self.stream.readline()

    def read(self, key):
        line = self.ask(b"get %s\r\n" % key)
        if line == b"END\r\n":
            return None
        value = self.stream.read(int(line.split()[3]) + 2)[:-2]
        assert self.stream.readline() == b"END\r\n"
        return value

    def run(self):
        try:
            source = random.Random(self.number)
            stored = {}
            for version in range(REQUESTS):
                key = b"key:%d:%d" % (self.number, source.randrange(400))
                match source.randrange(5):
                    case 0 | 1:
                        value = content(key, version)
                        answer = self.ask(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
                        assert answer == b"STORED\r\n", answer
                        stored[key] = value
                    case 2 | 3:
                        value = self.read(key)
                        assert value is None or value == stored.get(key), key
                        self.hits += value is not None
                    case _ if version % 2:
                        answer = self.ask(b"delete %s\r\n" % key)
                        assert answer == b"DELETED\r\n" and key in stored or answer == b"NOT_FOUND\r\n", answer
                        stored.pop(key, None)
                    case _:
                        answer = self.ask(b"append %s 0 0 5\r\n12345\r\n" % key)
                        assert answer == b"STORED\r\n" and key in stored or answer == b"NOT_STORED\r\n", answer
                        if answer == b"STORED\r\n":
                            stored[key] += b"12345"
        except (OSError, AssertionError) as error:
            self.failure = error
        finally:
            self.stream.close()
            self.socket.close()


class MemcachedTest(harness.PreloadTest):
    def start(self, preload=True, *options):
        self.port = harness.free_port()
        context = harness.server([*harness.unprivileged(), harness.program("memcached"), "-l", "127.0.0.1", "-U", "0",
                                  "-p", str(self.port), "-t", "4", *options], preload)
        self.process = self.enterContext(context)
        harness.wait_until(self.answers, 20, "memcached answers")
        self.assertEqual(preload, harness.is_mapped(self.process.pid))

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            self.assertIsNone(self.process.poll(), self.process.log())
            return False
        return True

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.assertEqual(STOPPED, self.process.wait(timeout=20), self.process.log())
        self.check_quiet(self.process.log())

    def suite(self, preload):
        self.start(preload)
        status, output, errors = harness.run(
            [harness.program("memccapable"), "-h", "127.0.0.1", "-p", str(self.port)], preload)
        self.stop()
        return status, output, errors

    def test_suite_of_the_protocol(self):
        plain = self.suite(False)
        self.assertGreater(plain[1].count(b"[pass]"), 40, plain)
        self.assertEqual(plain, self.suite(True))

    def test_clients_while_it_evicts(self):
        self.start(True, "-m", "48", "-o", "slab_reassign,slab_automove")
        clients = [Client(self.port, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        self.assertEqual([None] * CLIENTS, [client.failure for client in clients], self.process.log())
        self.assertGreater(sum(client.hits for client in clients), CLIENTS * REQUESTS / 20)
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(b"stats\r\nquit\r\n")
            stats = connection.makefile().read()
        self.assertGreater(int(re.search(r"STAT evictions (\d+)", stats).group(1)), 0, stats)
        self.stop()

    def test_many_connections(self):
        """memcslap's threads, all of whose answers are right."""
        self.start()
        for test in ("set", "get", "mget"):
            status, output, errors = harness.run(
                [harness.program("memcslap"), f"--servers=127.0.0.1:{self.port}", "--concurrency=40",
                 "--execute-number=300", f"--test={test}", "--initial-load=2000"], True)
            self.assertEqual((0, b""), (status, errors), output)
        self.stop()


if __name__ == "__main__":
    harness.main()
