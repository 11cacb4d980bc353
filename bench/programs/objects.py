"""Python objects of many kinds: records, text, JSON, a graph, big integers. Prints what came out.

The interpreter serves objects of up to 512 bytes from arenas of its own; what
reaches malloc is the larger ones: dictionaries, lists, strings, integers.
"""

import json
import random
import re
from collections import Counter, deque
from fractions import Fraction

RANDOM = random.Random(20240501)
WORDS = ["".join(RANDOM.choices("abcdefghijklmnop", k=RANDOM.randint(2, 9))) for _ in range(4000)]


class Node:
    """A node of the graph, with a dictionary of its own as most objects have."""

    def __init__(self, number: int):
        self.number = number
        self.name = f"node {number}"
        self.neighbours = []
        self.notes = {}


def text(length: int) -> str:
    return " ".join(RANDOM.choices(WORDS, k=length))


def documents() -> int:
    """Records to JSON and back, some of them kept while others come and go."""
    kept = deque(maxlen=300)
    total = 0
    for number in range(2000):
        record = {"number": number, "tags": RANDOM.choices(WORDS, k=20), "body": text(RANDOM.randint(50, 400))}
        record["parts"] = [{"name": WORDS[(number * i) % 4000], "values": list(range(i * 8))} for i in range(12)]
        line = json.dumps(record)
        kept.append(json.loads(line))
        total += len(line) + len(kept[RANDOM.randrange(len(kept))]["body"])
    return total


def graph() -> int:
    """Breadth-first walks over a graph of objects that grows."""
    nodes = [Node(0)]
    steps = 0
    for number in range(1, 30000):
        node = Node(number)
        other = nodes[RANDOM.randrange(len(nodes))]
        node.neighbours.append(other)
        other.neighbours.append(node)
        other.notes[node.name] = number
        nodes.append(node)
    for start in range(0, 30000, 10000):
        seen, queue = {start}, deque([nodes[start]])
        while queue:
            for neighbour in queue.popleft().neighbours:
                if neighbour.number not in seen:
                    seen.add(neighbour.number)
                    queue.append(neighbour)
                    steps += len(neighbour.notes) + 1
    return steps


def words() -> list:
    """Counts, splits, replaces and sorts over texts of some hundred KiB."""
    counts = Counter()
    length = 0
    for _ in range(14):
        page = text(20000)
        counts.update(re.findall(r"[a-h]+p\b", page))
        lines = re.sub(r"\b([a-d])(\w+)", r"\2\1", page).split("a")
        lines.sort(key=len)
        length += len("".join(lines[::3]))
    return [length, *counts.most_common(3)]


def numbers() -> str:
    """Fractions whose terms grow to some hundred digits."""
    total = Fraction(0)
    for i in range(1, 1200):
        total += Fraction(1, i)
    return str(total)[:40]


print(documents(), graph(), words(), numbers())
