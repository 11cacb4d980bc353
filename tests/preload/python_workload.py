"""A run through much of Python; prints digests that depend on every step.

Run by python_test.py with and without the preload: both must print the same.
"""

import collections
import ctypes
import decimal
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import queue
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import zlib


def digest(value):
    """A short digest of anything that has a stable repr."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def containers():
    source = random.Random(1)
    table = {}
    for _ in range(60000):
        key = f"key{source.randrange(20000)}"
        if source.random() < 0.3:
            table.pop(key, None)
        else:
            table[key] = [source.random()] * source.randrange(30)
    counter = collections.Counter(len(value) for value in table.values())
    deque = collections.deque(maxlen=500)
    for i in range(50000):
        deque.append("x" * (i % 700))
    return sorted(counter.items()), len(table), sum(map(len, deque)), sorted(table)[:50]


def texts():
    source = random.Random(2)
    words = ["".join(source.choices("abcdefghij", k=source.randrange(1, 12))) for _ in range(20000)]
    text = " ".join(words)
    found = re.findall(r"\b(a[b-f]+)(?:\s+(\w{3,5}))?", text)
    replaced = re.sub(r"(\w)(\w)\b", r"\2\1", text)
    data = {"words": words[:5000], "nested": [{"n": i, "s": str(i) * (i % 50)} for i in range(3000)]}
    restored = json.loads(json.dumps(data, indent=1))
    assert restored == data
    grown = ""
    for word in words:
        grown += word
    return len(found), digest(replaced), len(grown), digest(grown.upper().split("A")[:100])


def binary():
    source = random.Random(3)
    blob = source.randbytes(700000) + b"0" * 900000
    packed = zlib.compress(blob, 6)
    assert zlib.decompress(packed) == blob
    array = bytearray()
    for i in range(3000):
        array += bytes([i % 256]) * (i % 97)
        if i % 7 == 0:
            del array[: i % 50]
    objects = [{"i": i, "t": (i, str(i)), "b": bytes(i % 200)} for i in range(10000)]
    assert pickle.loads(pickle.dumps(objects)) == objects
    buffer = ctypes.create_string_buffer(1 << 20)
    ctypes.memset(buffer, 65, 1 << 20)
    return len(packed), digest(bytes(array)), digest(buffer.raw), str(decimal.Decimal(2).sqrt(decimal.Context(prec=400)))


def cycles():
    class Node:
        def __init__(self):
            self.others = []
            self.payload = bytearray(100)

    collected = 0
    for _ in range(30):
        nodes = [Node() for _ in range(500)]
        for i, node in enumerate(nodes):
            node.others = [nodes[(i * 7) % 500], nodes[(i * 13) % 500]]
        del nodes, node
        collected += gc.collect() > 0
    return collected


def threads():
    work, results = queue.Queue(maxsize=64), {}

    def worker():
        while (item := work.get()) is not None:
            results[item] = digest(sorted(str(i * item) for i in range(300)))

    pool = [threading.Thread(target=worker) for _ in range(6)]
    for thread in pool:
        thread.start()
    for item in range(300):
        work.put(item)
    for _ in pool:
        work.put(None)
    for thread in pool:
        thread.join()
    for _ in range(200):
        thread = threading.Thread(target=lambda: [bytes(i) for i in range(200)])
        thread.start()
        thread.join()
    return digest(sorted(results.items()))


def in_process(number):
    return digest([json.dumps({"n": number, "l": list(range(number % 500))}) for _ in range(20)])


def processes():
    out = []
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(3) as pool:
            out.append(digest(pool.map(in_process, range(60))))
    for i in range(10):
        result = subprocess.run([sys.executable, "-c", f"print(sum(len(str(i)) for i in range({i}000)))"],
                                capture_output=True, check=True)
        out.append(result.stdout)
    child = os.fork()
    if child == 0:
        data = [str(i) for i in range(10000)]
        os._exit(len(data) % 100)
    out.append(os.waitpid(child, 0)[1])
    return out


def database():
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (a integer primary key, b text, c real)")
        connection.executemany("insert into t values (?, ?, ?)", ((i, "b" * (i % 100), i / 3) for i in range(20000)))
        rows = connection.execute("select b, count(*), sum(c) from t group by b order by 2 desc, 1 limit 20").fetchall()
    return digest(rows)


def main():
    signal.alarm(90)
    for step in (containers, texts, binary, cycles, threads, processes, database):
        print(step.__name__, step())
    print("mapped", sum("libhakmem" in line for line in open("/proc/self/maps", encoding="utf-8")) > 0, file=sys.stderr)


if __name__ == "__main__":
    main()
