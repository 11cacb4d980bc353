"""A Redis client that pipelines: enough of the protocol to load a server as fast as Python can."""

import socket


class Client:
    """One connection. `pipeline` sends the next batch before it reads the answers to the last."""

    def __init__(self, host, port, timeout=30.0):
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._due = 0
        self._rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def command(self, *words):
        """One command and its answer without the line end; bulk answers come as their bytes."""
        self.drain()
        self._socket.sendall(encode(*words))
        answer = b""
        while b"\r\n" not in answer:
            answer += self._receive()
        line, rest = answer.split(b"\r\n", 1)
        if line[:1] != b"$" or line == b"$-1":
            return line
        size = int(line[1:])
        while len(rest) < size + 2:
            rest += self._receive()
        return rest[:size]

    def pipeline(self, commands):
        """Sends encoded commands whose answers are one line each."""
        if not commands:
            return
        self._socket.sendall(b"".join(commands))
        before, self._due = self._due, len(commands)
        self._read_lines(before)

    def drain(self):
        """Waits until everything that was sent is answered."""
        self._read_lines(self._due)
        self._due = 0

    def _read_lines(self, count):
        # Answers end in \r\n and come in order; an error starts its line with "-".
        while count > 0:
            data = self._receive_lines(count)
            if b"\r\n-" in data or data[:1] == b"-":
                start = 0 if data[:1] == b"-" else data.index(b"\r\n-") + 2
                raise OSError("redis-server: " + data[start:].split(b"\r\n", 1)[0].decode(errors="replace"))
            count -= data.count(b"\r\n")

    def _receive_lines(self, count):
        """Whole lines, at most `count`; what was received beyond them is kept."""
        while b"\r\n" not in self._rest:
            self._rest += self._receive()
        end = self._rest.rfind(b"\r\n") + 2
        lines, rest = self._rest[:end], self._rest[end:]
        if lines.count(b"\r\n") > count:
            parts = lines.split(b"\r\n")
            kept = b"\r\n".join(parts[:count]) + b"\r\n"
            rest, lines = lines[len(kept):] + rest, kept
        self._rest = rest
        return lines

    def _receive(self):
        data = self._socket.recv(1 << 18)
        if not data:
            raise OSError("redis-server closed the connection")
        return data


def encode(*words):
    """One command in the protocol's form."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        if not isinstance(word, bytes):
            word = str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)
