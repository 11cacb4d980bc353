"""A threaded C++ server under the preload: right answers under load from many clients, bounded memory."""

import http.client
import random
import sys
import threading

import endpoint
import harness

SERVER = ""  # taken from the command line, below
CLIENTS = 8
ROUNDS = 5
REQUESTS = 60  # of a client in a round, over several connections


class Client(threading.Thread):
    """Stores, reads back, reverses and deletes bodies of random sizes, and checks each answer."""

    timeout = 30  # seconds

    def __init__(self, port, number, round_number):
        super().__init__()
        self.port = port
        self.number = number
        self.source = random.Random(number * 1000 + round_number)
        self.requests = 0
        self.failure = None

    def request(self, connection, method, path, body=None):
        connection.request(method, path, body)
        response = connection.getresponse()
        self.requests += 1
        return response.status, response.read()

    def expect(self, expected, got):
        if expected != got:
            raise AssertionError(f"client {self.number}: expected {expected[0]} and {len(expected[1])} bytes, "
                                 f"got {got[0]} and {len(got[1])} bytes")

    def run(self):
        try:
            for _ in range(REQUESTS // 15):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
                for _ in range(5):
                    body = self.source.randbytes(int(2 ** self.source.uniform(0, 17)))
                    path = f"/client{self.number}/{self.source.randrange(20)}"
                    self.expect((201, b""), self.request(connection, "PUT", path, body))
                    self.expect((200, body), self.request(connection, "GET", path))
                    self.expect((200, body[::-1]), self.request(connection, "POST", "/reverse", body))
                    if self.source.random() < 0.3:
                        self.expect((204, b""), self.request(connection, "DELETE", path))
                        status, _ = self.request(connection, "GET", path)
                        self.expect((404, b""), (status, b""))
                connection.close()
        except (OSError, AssertionError, http.client.HTTPException) as error:
            self.failure = error


class ServerTest(harness.PreloadTest):
    def load(self, port, round_number):
        """One round of all clients; returns how many requests were answered."""
        clients = [Client(port, number, round_number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        self.assertEqual([None] * CLIENTS, [client.failure for client in clients])
        return sum(client.requests for client in clients)

    def check_mode(self, mode, growth_mib):
        with harness.server([SERVER, mode], True) as process:
            harness.wait_until(lambda: process.log().endswith("\n") or process.poll() is not None, 20, "the server listens")
            port = int(process.log())
            self.assertTrue(harness.is_mapped(process.pid))
            requests = self.load(port, 0)
            settled = harness.resident_kib(process.pid)
            for round_number in range(1, ROUNDS):
                requests += self.load(port, round_number)
            # The store holds 2 MiB at most at the end of a round. What else there is, is free: with a pool mostly blocks
            # in the caches of its eight threads.
            self.assertLess(harness.resident_kib(process.pid), settled + growth_mib * 1024)
            process.terminate()
            self.assertEqual(0, process.wait(timeout=20))
            self.assertEqual(f"{port}\nanswered {requests}\n", process.log())

    def test_the_account_of_resident_memory_adds_up(self):
        """While threads come and go, a large store is filled and emptied, and a child is forked that copies it."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        port = harness.free_port()
        variables = {"HAKMEM_LISTEN": f"127.0.0.1:{port}", "HAKMEM_PAGES": self.directory("pages")}
        with harness.server([SERVER, "thread"], True, variables=variables) as process:
            endpoint.wait_for(port)
            own = int(process.log())
            with endpoint.account_adds_up(self, port, 80 << 20, 2) as watch:
                connection = http.client.HTTPConnection("127.0.0.1", own, timeout=30)

                def ask(status, *request):
                    connection.request(*request)
                    response = connection.getresponse()
                    response.read()
                    self.assertEqual(status, response.status)

                def fill():
                    for number in range(20000):
                        ask(201, "PUT", f"/{number}", "b" * (number % 13000))
                    self.load(own, 0)

                fill()
                ask(200, "POST", "/fork")
                for number in range(15000):
                    ask(204, "DELETE", f"/{number}")
                harness.wait_until(lambda: len(watch.swings()) > 1, 20, "the child's page is shown")
                fill()
                connection.close()

    def test_thread_per_connection(self):
        self.check_mode("thread", 14)

    def test_pool_of_threads(self):
        self.check_mode("pool", 38)


if __name__ == "__main__":
    SERVER = sys.argv.pop()
    harness.main()
