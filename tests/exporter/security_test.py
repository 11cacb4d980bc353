#!/usr/bin/env python3
"""Who gets in: the endpoint towards clients that mean harm."""

import base64
import tempfile
import threading

from harness import *

TOKEN = "t0ken-that-nobody-guesses"
CLIENTS = 200


def raw(port, data, timeout=5):
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(data)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def status(port, path="/metrics", authorization=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


class SecretFile:
    def __init__(self, test, content=TOKEN, mode=0o600, owner=None):
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        self.path = os.path.join(folder.name, "secret")
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(self.path, mode)
        if owner is not None:
            os.chown(self.path, owner, owner)


class MachineExporter:
    """hakmem-exporter over a folder."""

    def __init__(self, pages, *arguments):
        self.port = free_port()
        self.process = subprocess.Popen([built("hakmem-exporter"), "--listen", f"127.0.0.1:{self.port}", "--pages", pages, "--young", "0",
                                         *arguments], env=environment(preload=False), stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        wait_until(lambda: is_serving(self.port), "hakmem-exporter")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.errors = self.process.communicate(timeout=20)[1]


def idle(client, _):
    del client


def ask_and_never_read(client, _):
    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")


def ask_for_different_things(client, number):
    client.sendall(b"GET /metrics?pid=%d HTTP/1.1\r\n\r\n" % number)


class Crowd:
    """Many clients of one kind, which come back for as long as they are sent away; or drip."""

    def __init__(self, port, behave, drip=False):
        self.stop = threading.Event()
        self.clients = [self.connect(port, behave, number) for number in range(CLIENTS)]
        self.thread = threading.Thread(target=self.go_on, args=(port, behave, drip))
        self.thread.start()

    @staticmethod
    def connect(port, behave, number):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        try:
            behave(client, number)
        except OSError:
            pass
        return client

    def go_on(self, port, behave, drip):
        number = 0
        while not self.stop.is_set():
            number = (number + 1) % CLIENTS
            try:
                if drip:
                    self.clients[number].send(b"G")
                else:
                    raise OSError
            except OSError:
                self.clients[number].close()
                self.clients[number] = self.connect(port, behave, number)
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        for client in self.clients:
            client.close()


class Crowds(unittest.TestCase):
    """200 clients that idle, drip or do not read: a scrape does not wait for them, and the service does not notice."""

    KINDS = {"idle": (idle, False), "dripping": (idle, True), "non-reading": (ask_and_never_read, False),
             "non-reading, of different things": (ask_for_different_things, False)}

    WAITED = 4  # s; the endpoint waits 5 s for a client that does not read, and would for many in turn

    def longest_scrape(self, port, clients, between=lambda: None):
        longest = 0
        for _ in range(5):
            start = time.monotonic()
            self.assertIn("hakmem_build_info", get(port))
            longest = max(longest, time.monotonic() - start)
            between()
        print(f"beside {CLIENTS} clients, {clients}: {longest:.2f} s for a scrape at the most", file=sys.stderr)
        return longest

    def test_the_embedded_endpoint(self):
        with Program() as program:
            program.wait_for_endpoint()
            program.do("alloc 0 20000 1000")
            for name, (behave, drip) in self.KINDS.items():
                with self.subTest(name), Crowd(program.port, behave, drip):
                    self.assertLess(self.longest_scrape(program.port, name, lambda: program.do("try 100")), self.WAITED)
                    descriptors = len(os.listdir(f"/proc/{program.pid}/fd"))
                    # Standard ones, the socket, connections, one that is refused, and one that is read for the account.
                    self.assertLessEqual(descriptors, 3 + 1 + 16 + 1 + 1)
                    self.assertEqual(len(os.listdir(f"/proc/{program.pid}/task")), 2)
            self.assertEqual(program.error_text(), "")

    def test_the_exporter_of_the_machine(self):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            programs = [Program(listen=False, pages=folder) for _ in range(5)]
            try:
                for program in programs:
                    program.do("alloc 0 5000 1000")
                with MachineExporter(folder) as exporter:
                    for name, (behave, drip) in self.KINDS.items():
                        with self.subTest(name), Crowd(exporter.port, behave, drip):
                            self.assertLess(self.longest_scrape(exporter.port, name), self.WAITED)
            finally:
                for program in programs:
                    program.__exit__()


class Answers(unittest.TestCase):
    def test_headers_of_every_answer(self):
        with Program() as program:
            program.wait_for_endpoint()
            for request in (b"GET /metrics", b"GET /healthz", b"GET /nothing", b"POST /metrics", b"HEAD /metrics"):
                head = raw(program.port, request + b" HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")[0]
                for header in (b"X-Content-Type-Options: nosniff", b"X-Frame-Options: DENY", b"Cache-Control: no-store",
                               b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'"):
                    self.assertIn(header, head, request)

    def test_what_is_no_get_is_refused_and_changes_nothing(self):
        with Program(HAKMEM_SAMPLE_BYTES="0") as program:
            program.wait_for_endpoint()
            for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"):
                for path in (b"/metrics", b"/healthz", b"/"):
                    answer = raw(program.port, method + b" " + path + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
                    self.assertTrue(answer.startswith(b"HTTP/1.1 405 "), answer[:40])
                    self.assertIn(b"Allow: GET, HEAD\r\n", answer)
            self.assertTrue(raw(program.port, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n").startswith(b"HTTP/1.1 431 "))

    def test_arguments_and_environment_are_shown_nowhere(self):
        secrets = ("argument-of-nobody-s-business", "variable-of-nobody-s-business")
        with Program(workload(), secrets[0], PASSWORD=secrets[1]) as program:
            program.wait_for_endpoint()
            program.do("alloc 0 5000 1000")
            paths = raw(program.port, b"GET / HTTP/1.1\r\n\r\n").decode().partition("there is:")[2].split()
            self.assertIn("/metrics", paths)
            for path in paths:
                answer = raw(program.port, f"GET {path} HTTP/1.1\r\n\r\n".encode(), timeout=30)
                for secret in secrets:
                    self.assertNotIn(secret.encode(), answer, path)
            for secret in secrets:
                self.assertNotIn(secret.encode(), program.page().read_bytes())


class Authentication(unittest.TestCase):
    def hides(self, secret, program):
        """The secret is in no place where others could see it."""
        for file in ("cmdline", "environ"):
            self.assertNotIn(secret, pathlib.Path(f"/proc/{program.pid}/{file}").read_text(encoding="utf-8"))
        self.assertNotIn(secret, program.error_text())
        self.assertNotIn(secret.encode(), program.page().read_bytes())

    def test_the_command_line_sends_it(self):
        for content in (TOKEN, "prometheus:" + TOKEN):
            secret = SecretFile(self, content)
            with Program(HAKMEM_AUTH=secret.path) as program:
                program.wait_for_endpoint()
                file = os.path.join(os.path.dirname(secret.path), "heap.pb.gz")
                for auth, status_wanted, errors in (
                        (secret.path, 0, ""),
                        ("", 1, "it wants a secret: name the file that holds it in HAKMEM_AUTH"),
                        (SecretFile(self, "another-secret").path, 1, "the secret in HAKMEM_AUTH is not the one that it wants"),
                        (SecretFile(self, content, mode=0o644).path, 2, "others may read or change it; chmod 600 it")):
                    result = subprocess.run([built("hakmem"), "profile", str(program.pid), "-o", file], capture_output=True,
                                            env=environment(preload=False, HAKMEM_AUTH=auth), text=True, timeout=60, check=False)
                    self.assertEqual((result.returncode, result.stdout), (status_wanted, ""), result.stderr)
                    self.assertIn(errors, result.stderr)
                    self.assertNotIn(TOKEN, result.stderr)
                    self.assertEqual(os.path.exists(file), status_wanted == 0)
                    if status_wanted == 0:
                        os.unlink(file)

    def test_a_token(self):
        secret = SecretFile(self, TOKEN + "\n")
        with Program(HAKMEM_AUTH=secret.path) as program:
            program.wait_for_endpoint()
            self.assertEqual(status(program.port, "/healthz"), 200)
            for path in ("/metrics", "/", "/nothing"):
                for wrong in (None, "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN):
                    self.assertEqual(status(program.port, path, wrong), 401, (path, wrong))
            self.assertIn(b'WWW-Authenticate: Bearer realm="hakmem"\r\n', raw(program.port, b"GET / HTTP/1.1\r\n\r\n"))
            self.assertEqual(status(program.port, "/metrics", f"Bearer {TOKEN}"), 200)
            self.assertEqual(status(program.port, "/nothing", f"Bearer {TOKEN}"), 404)
            self.hides(TOKEN, program)

    def test_user_and_password(self):
        secret = SecretFile(self, "prometheus:" + TOKEN)
        right = "Basic " + base64.b64encode(f"prometheus:{TOKEN}".encode()).decode()
        with Program(HAKMEM_AUTH=secret.path) as program:
            program.wait_for_endpoint()
            self.assertEqual(status(program.port), 401)
            self.assertEqual(status(program.port, authorization=f"Bearer prometheus:{TOKEN}"), 401)
            self.assertEqual(status(program.port, authorization=right), 200)
            self.hides(TOKEN, program)

    def test_the_exporter_of_the_machine(self):
        secret = SecretFile(self)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, MachineExporter(folder, "--auth", secret.path) as exporter:
            self.assertEqual(status(exporter.port), 401)
            self.assertEqual(status(exporter.port, authorization=f"Bearer {TOKEN}"), 200)
        self.assertNotIn(TOKEN, exporter.errors)

    def test_a_file_that_is_not_good_gives_one_line_and_no_endpoint(self):
        open_to_all, short = SecretFile(self, mode=0o644), SecretFile(self, "short")
        cases = {open_to_all.path: "others may read or change it; chmod 600 it", "/nonexistent": "No such file or directory",
                 short.path: "it does not hold one line USER:PASSWORD or TOKEN of 8 to 256 printable characters"}
        if os.geteuid() == 0:
            foreign = SecretFile(self, owner=65534)
            cases[foreign.path] = "it belongs to another user"
        for path, why in cases.items():
            self.refused(path, f"hakmem: no endpoint: HAKMEM_AUTH={path}: {why}")
            result = subprocess.run([built("hakmem-exporter"), "--listen", f"127.0.0.1:{free_port()}", "--auth", path],
                                    env=environment(preload=False), capture_output=True, text=True, timeout=20, check=False)
            self.assertEqual((result.returncode, result.stderr), (1, f"hakmem: --auth {path}: {why}\n"))
        self.refused("secret", "hakmem: HAKMEM_AUTH=secret is not an absolute path; nothing is served", 1.3)

    def refused(self, path, line, seconds=0.3):
        with Program(HAKMEM_AUTH=path) as program:
            program.do("try 100")
            wait_until(program.error_text, "the line on stderr")
            time.sleep(seconds)
            self.assertFalse(is_serving(program.port))
            self.assertEqual(program.end(), 0)
            self.assertEqual(lines(program.error_text()), [line])


if __name__ == "__main__":
    main()
