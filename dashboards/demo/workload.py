"""What the demo does to Redis so that its memory fragments, phase by phase.

A phase is a generator: after each batch of commands it yields how much of the
phase is done (0 to 1), so that whoever drives it can pace it, print a line, look
at the clock, or stop.
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

# Sizes of values. With what is added to each below, the values of one entry stay
# in one size class, and none of the second list is served by a class of the first.
FIRST_SIZES = (40, 110, 290, 590, 1050)
OTHER_SIZES = (70, 180, 450, 1560)
PAGE_SIZES = (5000, 14000, 30000)


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
        small_bytes = limit_bytes * 3 // 4
        while held < small_bytes:
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
            self._send(batch)
            yield held / limit_bytes
        self._select(PAGE_DATABASE)
        number = 0
        while held < limit_bytes:
            batch = []
            for _ in range(BATCH // 10):
                size = self._size(PAGE_SIZES)
                batch.append(encode(b"SET", b"page:%d" % number, self._blob[:size]))
                number += 1
                held += size
            self._send(batch)
            yield held / limit_bytes
        self._select(0)
        for number in range(HUGE_KEYS):
            self._send([encode(b"SETRANGE", b"huge:%d" % number, HUGE_BYTES, b"end")])
            # Growing by appending: Redis reallocates, and mremap moves the pages instead of copying them.
            self._send([encode(b"APPEND", b"huge:%d" % number, self._blob * 32)])
            yield 1.0

    def thin_out(self, share):
        """Deletes this share of the keys, spread evenly, so that almost no slab becomes empty."""
        self._select(0)  # the phase before may have been cut short in the other database
        names = []
        for key in range(self.keys):
            if not self._is_thinned(key, share):
                continue
            names.append(b"k:%d" % key)
            if len(names) == BATCH:
                self._delete(names)
                names = []
                yield key / self.keys
        self._delete(names)

    def rewrite(self, thinned, share):
        """Gives this share of the keys that were left values of other sizes: their old blocks become free."""
        self._select(0)
        batch = []
        for key in range(self.keys):
            if self._is_thinned(key, thinned) or self._random.random() >= share:
                continue
            batch.append(self._set(key, self._size(OTHER_SIZES)))
            if len(batch) == BATCH:
                self._send(batch)
                batch = []
                yield key / self.keys
        self._send(batch)

    def drop(self):
        """Drops the second database, the hashes and the huge values: whole slabs become empty, and purging starts."""
        self._select(PAGE_DATABASE)
        self._send([encode(b"FLUSHDB", b"SYNC")])
        self._select(0)
        yield 0.0
        for number in range(self.hashes):
            # Redis frees large hashes in a thread of its own: these are remote frees.
            self._send([encode(b"UNLINK", b"h:%d" % number)])
            yield number / self.hashes
        self._send([encode(b"DEL", b"huge:%d" % number) for number in range(HUGE_KEYS)])
        yield 1.0

    def steady(self):
        """A light load without end: reads, rewrites and deletes of single keys."""
        self._select(0)
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
            self._send(batch)
            yield 0.0

    # -- pieces ---------------------------------------------------------------

    def _delete(self, names):
        words = 50
        self._send([encode(b"DEL", *names[i:i + words]) for i in range(0, len(names), words)])

    def _set(self, key, size):
        return encode(b"SET", b"k:%d" % key, self._blob[:size])

    def _hash(self, number):
        words = [b"HSET", b"h:%d" % number]
        for field in range(HASH_FIELDS):
            words += [b"field:%d" % field, self._blob[:80]]
        return encode(*words)

    def _size(self, sizes):
        size = self._random.choice(sizes)
        return size + self._random.randrange(size // 32 + 1)

    @staticmethod
    def _is_thinned(key, share):
        return (key * 2654435761 & 0xFFFFFFFF) < share * 0x100000000

    def _select(self, database):
        self._client.command("SELECT", database)
        self.commands += 1

    def _send(self, batch):
        self._client.pipeline(batch)
        self.commands += len(batch)
