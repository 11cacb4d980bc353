"""nginx under the preload: right answers while it is reloaded, orderly ends of its workers, and these by pid."""

import gzip
import http.client
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import threading

import endpoint
import harness

CONFIGURATION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nginx.conf")
CLIENTS = 4
FILES = 12
REQUESTS = 100  # of a client in a round


def content(number):
    """What stands in a file: text from 10 bytes to 1 MiB."""
    size = 10 * 2.86 ** number
    line = random.Random(number).randbytes(30).hex() + "\n"
    return (line * int(size / len(line) + 1))[:int(size)].encode()


class Client(threading.Thread):
    """Asks for files in all ways of the configuration and checks each answer."""

    def __init__(self, port, secure, number):
        super().__init__()
        self.number = number
        self.source = random.Random(number)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=30),
                            http.client.HTTPSConnection("127.0.0.1", secure, timeout=30, context=context)]
        self.failure = None

    def ask(self, method, path, body=None, headers=None):
        """An answer, by a new connection where a worker that ends has closed the old one before it answered in full.

        In full: under load a worker of nginx that ends leaves an answer unfinished now and then, with any allocator.
        """
        connection = self.source.choice(self.connections)
        for attempt in (1, 2):
            try:
                connection.request(method, path, body, headers or {})
                answer = connection.getresponse()
                text = answer.read()
                break
            except (ConnectionError, ssl.SSLEOFError, http.client.IncompleteRead):
                connection.close()
                if attempt == 2:
                    raise
        return answer.status, gzip.decompress(text) if answer.getheader("Content-Encoding") == "gzip" else text

    def expect(self, expected, got):
        if expected != got:
            raise AssertionError(f"expected {expected[0]} and {len(expected[1])} bytes, got {got[0]} and {len(got[1])}")

    def run(self):
        try:
            for i in range(REQUESTS):
                number = self.source.randrange(FILES)
                folder = self.source.choice(["/", "/proxied/", "/proxied/proxied/"])
                headers = {"Accept-Encoding": "gzip"} if i % 2 else {}
                self.expect((200, content(number)), self.ask("GET", f"{folder}{number}.txt", headers=headers))
                if i % 10 == 0:
                    path = f"/stored/{self.number}/{i}.bin"
                    body = self.source.randbytes(int(2 ** self.source.uniform(0, 21)))
                    self.expect((201, b""), self.ask("PUT", path, body))
                    self.expect((200, body), self.ask("GET", "/proxied" + path))
                    self.expect((204, b""), self.ask("DELETE", path))
                    self.expect((200, b"".join(map(content, range(8)))), self.ask("GET", "/included/all.txt"))
                    self.expect((404, b""), (self.ask("GET", "/missing")[0], b""))
            for connection in self.connections:
                connection.close()
        except (OSError, AssertionError, http.client.HTTPException) as error:
            self.failure = error


class Nginx(harness.PreloadTest):
    """A server under the preload, with two workers, that serves FILES files in all ways of the configuration."""

    def setUp(self):
        super().setUp()
        self.port, self.secure = harness.free_port(), harness.free_port()
        files = self.directory("files")
        for number in range(FILES):
            with open(os.path.join(files, f"{number}.txt"), "wb") as file:
                file.write(content(number))
        os.mkdir(os.path.join(files, "included"))
        with open(os.path.join(files, "included", "all.txt"), "w", encoding="ascii") as file:
            file.write("".join(f'<!--# include virtual="/{number}.txt" -->' for number in range(8)))
        user = "nobody nogroup" if os.geteuid() == 0 else ""
        if user:
            for path in (self.scratch, files):
                shutil.chown(path, *user.split())
        with open(CONFIGURATION, encoding="ascii") as file:
            text = file.read().replace("PORT", str(self.port)).replace("SECURE", str(self.secure))
        with open(os.path.join(self.scratch, "nginx.conf"), "w", encoding="ascii") as file:
            file.write(text.replace("USER", f"user {user};" if user else ""))
        subprocess.run([harness.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-keyout", "key.pem", "-out", "certificate.pem"], check=True, capture_output=True,
                       cwd=self.scratch)

    def start(self, **variables):
        self.process = self.enterContext(harness.server(
            [harness.program("nginx"), "-p", self.scratch, "-c", f"{self.scratch}/nginx.conf", "-e", "stderr"], True,
            variables=variables))
        harness.wait_until(lambda: len(self.workers()) == 2 or self.process.poll() is not None, 20, "two workers")
        self.assertIsNone(self.process.poll(), self.process.log())
        for pid in (self.process.pid, *self.workers()):
            self.assertTrue(harness.is_mapped(pid))

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
            return set(map(int, children.read().split()))

    def stop(self, generations):
        """A graceful end: every worker of every generation exits with 0, and the log tells of nothing bad."""
        self.process.send_signal(signal.SIGQUIT)
        self.assertEqual(0, self.process.wait(timeout=30), self.process.log())
        log = self.process.log()
        self.assertEqual(2 * generations, len(re.findall(r"worker process \d+ exited with code 0", log)), log)
        log = re.sub(r".*\[alert\].*(open socket #\d+ left in connection \d+|aborting)\n", "", log)  # see Client.ask
        self.assertEqual([], [line for line in log.splitlines()
                              if re.search(r"\[(error|crit|alert|emerg)\]|exited on signal|hakmem:|ld\.so", line)])


class NginxTest(Nginx):
    def load(self):
        clients = [Client(self.port, self.secure, number) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        return clients

    def finish(self, clients):
        for client in clients:
            client.join()
        self.assertEqual([None] * CLIENTS, [client.failure for client in clients], self.process.log())

    def reload(self):
        """Two new workers take over from the old ones, which answer what they have and end."""
        old = self.workers()
        self.process.send_signal(signal.SIGHUP)
        harness.wait_until(lambda: len(self.workers() - old) == 2, 20, "new workers")
        return old

    def test_reloads_under_load(self):
        self.start()
        for _ in range(2):
            clients = self.load()
            old = self.reload()
            self.finish(clients)
            harness.wait_until(lambda: not old & self.workers(), 20, "the old workers end")
        self.stop(generations=3)

    def test_workers_are_shown_by_pid(self):
        """By the master's endpoint and by hakmem-exporter; the old ones as ended after a reload."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        pages = self.directory("pages")
        os.chmod(pages, 0o1777)
        port = harness.free_port()
        self.start(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PAGES=pages)
        exporter = self.enterContext(endpoint.host_exporter(pages))
        endpoint.wait_for(port)
        first = self.workers()
        self.check_shown((port, exporter), first)
        self.assertIn(str(self.process.pid), endpoint.by_pid(exporter, "hakmem_live_bytes"))
        self.reload()
        harness.wait_until(lambda: not first & self.workers(), 20, "the old workers end")
        self.check_shown((port, exporter), self.workers())
        for shown in (port, exporter):
            refills = endpoint.by_pid(shown, "hakmem_refills_total")
            self.assertGreater(refills["other"], 0)
            self.assertFalse(set(map(str, first)) & set(refills))
        self.stop(generations=2)
        self.assertEqual({"nginx"}, endpoint.names(exporter))
        self.assertEqual([], os.listdir(pages))

    def check_shown(self, ports, workers):
        """These workers have figures in a scrape, once they had work after their first second."""
        def are_shown():
            self.finish(self.load())
            return all(set(map(str, workers)) <= set(endpoint.by_pid(port, "hakmem_live_bytes")) for port in ports)

        harness.wait_until(are_shown, 20, "the workers' figures")
        for port in ports:
            endpoint.lint(port)


if __name__ == "__main__":
    harness.main()
