#!/usr/bin/env python3
"""hakmem-exporter and the tools under valgrind: no wrong access, no use of what was never set, nothing leaked."""

import struct
import tempfile

from harness import *

VALGRIND = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect,possible"]


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


class Valgrind(unittest.TestCase):
    def setUp(self):
        self.assertTrue(shutil.which("valgrind"), "valgrind is not installed")
        folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        self.pages = pathlib.Path(folder.name)
        self.program = Program(pages=folder.name, HAKMEM_CONTROL="1")
        self.addCleanup(self.program.__exit__)
        self.program.do("alloc 0 20000 1000")
        self.program.wait_for_endpoint()
        self.program.scrape()

    def leave_pages(self):
        """One of a process that has ended, and one of each kind that is left out."""
        page = self.program.page()
        good = page.read_bytes()
        fields = page.name.split(".")
        ended = good[:48] + struct.pack("<I", 1 << 30) + good[52:]
        for number, data in enumerate((ended, b"x" * 40000, good[:8] + struct.pack("<I", 999) + good[12:], good[:20000], b"")):
            fields[2] = str((1 << 30) + number)
            (self.pages / ".".join(fields)).write_bytes(data)

    def test_the_exporter(self):
        port = free_port()
        exporter = subprocess.Popen([*VALGRIND, built("hakmem-exporter"), "--listen", f"127.0.0.1:{port}", "--pages", self.pages,
                                     "--young", "0"], env=environment(preload=False), stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (exporter.kill(), exporter.wait()))
        wait_until(lambda: is_serving(port), "hakmem-exporter under valgrind", 60)
        for round_number in range(3):
            if round_number == 1:
                self.leave_pages()
            Scrape(get(port, timeout=60)).lint()
            Scrape(get(port, f"/metrics?pid={self.program.pid}", timeout=60))
        for request in (b"\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"GET /nothing HTTP/1.1\r\n\r\n", b"HEAD /metrics HTTP/1.0\r\n\r\n",
                        b"GET /metrics HTTP/1.1\r\nHost: example.org\r\n\r\n", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"):
            self.assertTrue(ask(port, request).startswith(b"HTTP/1.1 "))
        self.program.process.kill()
        self.program.process.wait()
        get(port, timeout=60)
        exporter.terminate()
        said = exporter.communicate(timeout=60)[1]
        self.assertEqual(exporter.returncode, 0, said)

    def test_the_tools(self):
        pid = str(self.program.pid)
        for command in (["report", pid], ["top", "--once"], ["check", pid], ["config", pid, "sample_bytes=4096"],
                        ["profile", pid, "-o", "/dev/null"], ["run", "/bin/true"]):
            result = subprocess.run([*VALGRIND, built("hakmem"), *command], capture_output=True, text=True, timeout=60, check=False,
                                    env=environment(preload=False, HAKMEM_PAGES=str(self.pages)))
            self.assertEqual((result.returncode, result.stderr), (0, ""), command)


if __name__ == "__main__":
    main()
