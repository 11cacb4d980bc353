"""A program of the soak: a parent that lives long and runs its work in processes and threads.

It takes a command a line and answers each with a line:

  work SEED METHOD KILL   three processes of multiprocessing and a thread compute the same; with
                          KILL 1 one of the processes is killed meanwhile
  trim                    malloc_trim(0)
  leak BYTES              keeps so many bytes for ever; only the proof that a leak is noticed asks for it
"""

import ctypes
import hashlib
import multiprocessing
import random
import signal
import sys
import threading
import time


def compute(seed):
    """A digest that depends on many objects of many sizes, some of which live long."""
    source = random.Random(seed)
    table = {}
    for _ in range(12000):
        key = source.randrange(3000)
        if source.random() < 0.4:
            table.pop(key, None)
        else:
            table[key] = [bytes(int(2 ** source.uniform(3, 12))), str(source.random()) * source.randrange(20)]
    total = hashlib.sha256()
    for key in sorted(table):
        total.update(b"%d %s" % (key, table[key][0]) + table[key][1].encode())
    return total.hexdigest()


def compute_into(pipe, seed):
    pipe.send(compute(seed))
    pipe.close()


def answer_of(reader):
    """The digest that a process sent; None when it ended without."""
    try:
        return reader.recv()
    except EOFError:
        return None


def work(seed, method, kill):
    context = multiprocessing.get_context(method)
    results = []
    own = threading.Thread(target=lambda: results.append(compute(seed)))
    own.start()
    children = []
    for _ in range(3):
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=compute_into, args=(writer, seed))
        child.start()
        writer.close()
        children.append((child, reader))
    if kill:
        time.sleep(random.Random(seed).uniform(0, 0.2))
        children[0][0].kill()  # which, unlike os.kill, knows that the next start() may have reaped it
    answers = [answer_of(reader) for _, reader in children]
    own.join()
    for child, reader in children:
        child.join()
        reader.close()
    statuses = [child.exitcode for child, _ in children]
    for child, _ in children:
        child.close()
    for answer, status in zip(answers, statuses):
        killed = kill and status == -signal.SIGKILL
        if not killed and (status != 0 or answer != results[0]):
            return f"wrong: {answers} {statuses} instead of {results[0]}"
    return f"right {sum(status == -signal.SIGKILL for status in statuses)}"


def main():
    kept = []
    for line in sys.stdin:
        match line.split():
            case ["work", seed, method, kill]:
                print(work(int(seed), method, kill == "1"), flush=True)
            case ["trim"]:
                print("trimmed", ctypes.CDLL(None).malloc_trim(0), flush=True)
            case ["leak", count]:
                kept.append(b"k" * int(count))
                print("leaked", flush=True)
            case other:
                print("unknown command", other, flush=True)


if __name__ == "__main__":
    main()
