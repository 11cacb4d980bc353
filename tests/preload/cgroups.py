"""Cgroups of a test's own, with a limit of their memory."""

import os
import pathlib
import time


def memory_cgroups():
    """Folders in which this process may make memory cgroups, of version 1 and 2."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            if "memory" in controllers.split(","):
                yield pathlib.Path("/sys/fs/cgroup/memory" + path)
            elif not controllers:
                yield pathlib.Path("/sys/fs/cgroup" + path)


def remove_cgroup(folder):
    """Removes a cgroup whose processes are about to end."""
    end = time.monotonic() + 20
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def limited_cgroup(test, limit, name=""):
    """The folder of a new cgroup with a limit of its memory, for this test; skips it where none can be made."""
    for parent in memory_cgroups():
        folder = parent / (name or f"hakmem-test-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        for name in ("memory.limit_in_bytes", "memory.max"):
            try:
                (folder / name).write_text(str(limit), encoding="ascii")
            except OSError:
                continue
            test.addCleanup(remove_cgroup, folder)
            return folder
        folder.rmdir()
    return test.skipTest("no cgroup of the memory controller can be made here")
