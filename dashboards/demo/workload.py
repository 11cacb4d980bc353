"""What the demo does to Redis so that its memory fragments, phase by phase.

A phase is a generator: it yields after each batch of commands, so that whoever
drives it can print a line, look at the clock, or stop.
"""

import random

from resp import encode

MIB = 1 << 20

BATCH = 500                # commands a batch
KEY_OVERHEAD = 90          # bytes that Redis needs for a key beside its value, about
HASH_FIELDS = 200          # fields of a hash: above Redis' limit for freeing it in the background
PAGE_DATABASE = 1          # a second database, dropped at once: whole slabs become empty
HUGE_BYTES = 6 * MIB
HUGE_KEYS = 4

FIRST_SIZES = (24, 40, 72, 100, 150, 220, 300, 480, 700, 1100)
OTHER_SIZES = (33, 56, 90, 190, 260, 380, 560, 900, 1500, 2300)
PAGE_SIZES = (3000, 5000, 9000, 14000, 30000)


class Workload:
    """Fills, thins out, rewrites and drops; remembers what is there."""

    def __init__(self, client, seed=1):
        self._client = client
        self._random = random.Random(seed)
        self._blob = self._random.randbytes(1 << 16)
        self.keys = 0      # k:0 to k:keys-1 were written
        self.hashes = 0
        self.commands = 0

    # -- phases ---------------------------------------------------------------

    def fill(self, limit_bytes):
        """Writes small values until about `limit_bytes` are held, a quarter of it pages of a second database."""
        held = 0
        while held < limit_bytes * 3 // 4:
            batch = []
            for _ in range(BATCH):
                size = self._size(FIRST_SIZES)
                batch.append(self._set(self.keys, size))
                self.keys += 1
                held += size + KEY_OVERHEAD
            if self.keys % (BATCH * 20) == 0:
                batch.append(self._hash(self.hashes))
                self.hashes += 1
                held += HASH_FIELDS * KEY_OVERHEAD
            yield self._send(batch)
        yield from self._pages(limit_bytes // 4)
        yield from self._huge()

    def thin_out(self, share):
        """Deletes this share of the keys, spread evenly, so that almost no slab becomes empty."""
        names = []
        batch = []
        for key in range(self.keys):
            if not self._is_thinned(key, share):
                continue
            names.append(b"k:%d" % key)
            if len(names) == 50:
                batch.append(encode(b"DEL", *names))
                names = []
            if len(batch) == BATCH // 10:
                yield self._send(batch)
                batch = []
        if names:
            batch.append(encode(b"DEL", *names))
        yield self._send(batch)

    def rewrite(self, thinned, share):
        """Gives this share of the keys that were left values of other sizes: their old blocks become free."""
        batch = []
        for key in range(self.keys):
            if self._is_thinned(key, thinned) or self._random.random() >= share:
                continue
            batch.append(self._set(key, self._size(OTHER_SIZES)))
            if len(batch) == BATCH:
                yield self._send(batch)
                batch = []
        yield self._send(batch)

    def drop(self):
        """Drops the second database, the hashes and the huge values: whole slabs become empty, and purging starts."""
        yield self._select(PAGE_DATABASE)
        yield self._send([encode(b"FLUSHDB", b"SYNC")])
        yield self._select(0)
        # Redis frees large hashes in a thread of its own: these are remote frees.
        yield self._send([encode(b"UNLINK", b"h:%d" % number) for number in range(self.hashes)])
        yield self._send([encode(b"DEL", b"huge:%d" % number) for number in range(HUGE_KEYS)])

    def steady(self):
        """A light load without end: reads, rewrites and deletes of single keys."""
        while True:
            batch = []
            for _ in range(BATCH // 5):
                key = self._random.randrange(max(1, self.keys))
                choice = self._random.random()
                if choice < 0.5:
                    batch.append(encode(b"EXISTS", b"k:%d" % key))
                elif choice < 0.8:
                    batch.append(self._set(key, self._size(FIRST_SIZES)))
                else:
                    batch.append(encode(b"DEL", b"k:%d" % key))
            yield self._send(batch)

    # -- pieces ---------------------------------------------------------------

    def _pages(self, limit_bytes):
        yield self._select(PAGE_DATABASE)
        held = number = 0
        while held < limit_bytes:
            batch = []
            for _ in range(BATCH // 10):
                size = self._size(PAGE_SIZES)
                batch.append(encode(b"SET", b"page:%d" % number, self._blob[:size]))
                number += 1
                held += size
            yield self._send(batch)
        yield self._select(0)

    def _huge(self):
        for number in range(HUGE_KEYS):
            yield self._send([encode(b"SETRANGE", b"huge:%d" % number, HUGE_BYTES, b"end")])
            # Growing by appending: Redis reallocates, and mremap moves the pages instead of copying them.
            yield self._send([encode(b"APPEND", b"huge:%d" % number, self._blob * 32)])

    def _set(self, key, size):
        return encode(b"SET", b"k:%d" % key, self._blob[:size])

    def _hash(self, number):
        words = [b"HSET", b"h:%d" % number]
        for field in range(HASH_FIELDS):
            words += [b"field:%d" % field, self._blob[:80]]
        return encode(*words)

    def _size(self, sizes):
        size = self._random.choice(sizes)
        return size + self._random.randrange(size // 4 + 1)

    @staticmethod
    def _is_thinned(key, share):
        return (key * 2654435761 & 0xFFFFFFFF) < share * 0x100000000

    def _select(self, database):
        self._client.command("SELECT", database)
        self.commands += 1

    def _send(self, batch):
        self._client.pipeline(batch)
        self.commands += len(batch)
