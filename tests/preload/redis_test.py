"""redis-server under the preload: commands, a benchmark, snapshots by fork, a restart."""

import os
import random
import re

import endpoint
import harness


def encode(*arguments):
    """One command in the protocol of Redis."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def dataset():
    """Commands that fill all types of values, and delete and rewrite a part of them."""
    source = random.Random(7)
    commands = []
    for i in range(12000):
        commands.append(encode("SET", f"string:{i}", source.randbytes(int(2 ** source.uniform(3, 11)))))
    for i in range(300):
        for j in range(30):
            commands.append(encode("HSET", f"hash:{i}", f"field:{j}", "h" * source.randrange(200)))
            commands.append(encode("RPUSH", f"list:{i}", "l" * source.randrange(300)))
            commands.append(encode("ZADD", f"sorted:{i}", j * 1.5, f"member:{j}:{source.randrange(1000)}"))
            commands.append(encode("SADD", f"set:{i}", f"member:{source.randrange(100)}"))
    for i in range(0, 12000, 3):
        commands.append(encode("DEL", f"string:{i}"))
    for i in range(0, 12000, 4):
        commands.append(encode("SET", f"string:{i}", source.randbytes(source.randrange(1, 6000))))
        commands.append(encode("APPEND", f"string:{i}", b"a" * 500))
    return b"".join(commands), len(commands)


class RedisTest(harness.PreloadTest):
    def setUp(self):
        super().setUp()
        self.port = harness.free_port()

    def start(self, preload=True, **variables):
        """Starts a server on the dump of the scratch directory."""
        context = harness.server(
            [harness.program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--dir", self.scratch, "--enable-debug-command", "yes", "--daemonize", "no"], preload, variables=variables)
        self.process = self.enterContext(context)
        harness.wait_until(lambda: self.ping() or self.process.poll() is not None, 20, "redis-server answers")
        self.assertIsNone(self.process.poll(), self.process.log())
        self.assertEqual(preload, harness.is_mapped(self.process.pid))

    def ping(self):
        status, output, _ = harness.run([harness.program("redis-cli"), "-p", str(self.port), "PING"], False)
        return status == 0 and output == b"PONG\n"

    def command(self, *arguments):
        """Runs one command by a preloaded redis-cli."""
        status, output, errors = harness.run(
            [harness.program("redis-cli"), "-p", str(self.port), *map(str, arguments)], True)
        self.assertEqual((0, b""), (status, errors), self.process.log())
        return output.decode(errors="replace").rstrip("\n")

    def info(self, field):
        match = re.search(rf"^{field}:(\S*)", self.command("INFO"), re.MULTILINE)
        self.assertIsNotNone(match, field)
        return match.group(1)

    def fill(self):
        commands, count = dataset()
        status, output, errors = harness.run(
            [harness.program("redis-cli"), "-p", str(self.port), "--pipe"], True, stdin=commands)
        self.assertEqual((0, b""), (status, errors))
        self.assertIn(f"errors: 0, replies: {count}".encode(), output)

    def stop(self):
        self.command("SHUTDOWN", "NOSAVE")
        self.assertEqual(0, self.process.wait(timeout=20))
        self.check_quiet(self.process.log())

    def test_commands(self):
        self.start()
        self.assertEqual("OK", self.command("SET", "key", "value"))
        self.assertEqual("value", self.command("GET", "key"))
        self.assertEqual("1", self.command("DEL", "key"))
        self.assertEqual("", self.command("GET", "key"))
        self.assertEqual("1000000", self.command("SETRANGE", "large", 999999, "x"))
        self.assertEqual("4000003", self.command("SETRANGE", "large", 4000000, "end"))
        self.assertEqual("end", self.command("GETRANGE", "large", 4000000, -1))
        script = "local t = {} for i = 1, 20000 do t[i] = string.rep('x', i % 100) end return #table.concat(t)"
        self.assertEqual("990000", self.command("EVAL", script, 0))
        self.stop()

    def test_snapshots_and_restart(self):
        """A dataset survives DEBUG RELOAD, BGSAVE, BGREWRITEAOF and a restart, digest by digest."""
        self.start()
        self.fill()
        digest = self.command("DEBUG", "DIGEST")
        size = self.command("DBSIZE")
        self.assertEqual("OK", self.command("DEBUG", "RELOAD"))
        self.assertEqual(digest, self.command("DEBUG", "DIGEST"))
        self.assertEqual("OK", self.command("CONFIG", "SET", "appendonly", "yes"))
        harness.wait_until(lambda: self.info("aof_rewrite_in_progress") == "0", 30, "the append-only file is rewritten")
        self.assertEqual("ok", self.info("aof_last_bgrewrite_status"))
        self.assertEqual("OK", self.command("CONFIG", "SET", "appendonly", "no"))
        self.command("BGSAVE")
        harness.wait_until(lambda: self.info("rdb_bgsave_in_progress") == "0", 90, "the snapshot is written")
        self.assertEqual("ok", self.info("rdb_last_bgsave_status"))
        self.assertGreater(os.path.getsize(os.path.join(self.scratch, "dump.rdb")), 1000000)
        self.stop()
        # The dump of the preloaded server, read by one without preload, and again preloaded.
        for preload in (False, True):
            self.start(preload)
            self.assertEqual(digest, self.command("DEBUG", "DIGEST"))
            self.assertEqual(size, self.command("DBSIZE"))
            self.stop()

    def test_benchmark(self):
        self.start()
        for extra in ([], ["-P", "16"]):
            status, output, errors = harness.run(
                [harness.program("redis-benchmark"), "-p", str(self.port), "-q", "-n", "20000", "-c", "20", "-r", "5000",
                 "-d", "300", "-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset", *extra], True)
            self.assertEqual(0, status, errors)
            self.assertGreaterEqual(output.count(b"requests per second"), 10)
            self.assertEqual(b"", errors)
        self.assertEqual("OK", self.command("FLUSHALL"))
        self.assertEqual("0", self.command("DBSIZE"))
        self.stop()

    def test_flushed_memory_goes_back(self):
        """What a flush frees is given back to the kernel for the most part."""
        self.start()
        empty = harness.resident_kib(self.process.pid)
        self.command("DEBUG", "POPULATE", 100000, "filler", 1000)
        full = harness.resident_kib(self.process.pid)
        self.assertGreater(full - empty, 100000)
        self.command("FLUSHALL")
        # What exceeds 32 MiB goes in some seconds, in calls: while there is work.

        def has_given_back():
            for number in range(5):
                self.command("MSET", *(f"{part}{number}" for part in range(200)))
            return harness.resident_kib(self.process.pid) - empty < 60 * 1024

        harness.wait_until(has_given_back, 30, "the memory of the flush")
        self.stop()

    def test_the_account_of_resident_memory_adds_up(self):
        """While the server grows, shrinks, and forks a child that saves."""
        if "telemetry" not in harness.LIBRARY:
            self.skipTest("only the telemetry library has an endpoint")
        port = harness.free_port()
        self.start(HAKMEM_LISTEN=f"127.0.0.1:{port}", HAKMEM_PROGRAM="redis-server", HAKMEM_PAGES=self.directory("pages"))
        endpoint.wait_for(port)
        with endpoint.account_adds_up(self, port, 100 << 20):
            self.command("DEBUG", "POPULATE", 150000, "filler", 1000)
            self.command("CONFIG", "SET", "rdb-key-save-delay", "10")  # microseconds a key: a child that lives for a while
            self.command("BGSAVE")
            self.fill()
            harness.wait_until(lambda: self.info("rdb_bgsave_in_progress") == "0", 90, "the snapshot is written")
            self.command("FLUSHALL")
            self.fill()
        self.stop()


if __name__ == "__main__":
    harness.main()
