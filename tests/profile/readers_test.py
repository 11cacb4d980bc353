#!/usr/bin/env python3
"""The profiles as others' readers show them: call sites by name, with what the program is known to hold there."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from harness import *

COMMANDS = ["keep one 200000 48", "keep two 10000 1000", "drop two", "keep three 3000 3000"]
ONE, TWO, THREE = (f"sites::{name}(unsigned long)" for name in ("one", "two", "three"))
# profile -> the value that is shown first, and the bytes of each site.
EXPECTED = {
    "heap": ("inuse_space", {ONE: 200000 * 48, TWO: 0, THREE: 3000 * 3072}),
    "allocs": ("alloc_space", {ONE: 200000 * 48, TWO: 10000 * 1024, THREE: 3000 * 3072}),
    # At the end less is held than before two was dropped.
    "peak": ("peak_space", {ONE: 200000 * 48, TWO: 10000 * 1024, THREE: 0}),
}


def speedscope(file):
    """Bytes by name of the innermost function, and the stacks' names."""
    dashboards = os.path.join(ROOT, "dashboards")
    script = os.path.join(ROOT, "tests/profile/speedscope.mjs")
    result = subprocess.run(["node", script, dashboards, file], text=True, capture_output=True, check=False, timeout=60)
    assert result.returncode == 0, [line[:200] for line in result.stderr.splitlines()]  # it prints its whole source
    shown = json.loads(result.stdout)
    (profile,) = shown["profiles"]
    assert profile["unit"] == "bytes", profile["unit"]
    names = [frame["name"] for frame in shown["shared"]["frames"]]
    own, stack, last = {}, [], 0
    for event in profile["events"]:
        if stack:  # the time since the last event is the innermost function's
            own[stack[-1]] = own.get(stack[-1], 0) + event["at"] - last
        last = event["at"]
        stack.append(names[event["frame"]]) if event["type"] == "O" else stack.pop()
    return own, names


def pprof_command():
    if shutil.which("pprof"):
        return ["pprof"]
    assert shutil.which("go"), "neither pprof nor go is installed: .ci/packages.txt, [long]"
    return ["go", "tool", "pprof"]


def pprof(file, value):
    """The same by Google's pprof; `value` is asked for by name."""
    result = subprocess.run([*pprof_command(), "-top", "-symbolize=none", "-nodefraction=0", "-unit=B",
                             f"-sample_index={value}", file], text=True, capture_output=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert f"Type: {value}\n" in result.stdout, result.stdout
    rows = re.findall(r"^ *(\d+)B? +\S+% +\S+% +\d+B? +\S+%  (.*)$", result.stdout, flags=re.M)
    return {name: int(own) for own, name in rows}, [name for _, name in rows]


class Readers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.files = {kind: os.path.join(folder.name, f"{kind}.pb.gz") for kind in EXPECTED}
        with Program(built("tests/profile_sites"), HAKMEM_SAMPLE_BYTES="2048") as program:
            for command in COMMANDS:
                program.do(command)
            program.wait_for_endpoint()
            for kind, file in cls.files.items():
                url = f"http://127.0.0.1:{program.port}/debug/pprof/{kind}"
                with urllib.request.urlopen(url, timeout=20) as answer, open(file, "wb") as content:
                    content.write(answer.read())

    def check(self, kind, found):
        own, names = found
        for site, exact in EXPECTED[kind][1].items():
            self.assertLessEqual(abs(own.get(site, 0) - exact), 0.06 * exact, f"{site} in {kind}: {own}")
        for name in ("main", "_start"):
            self.assertIn(name, names, kind)

    def test_speedscope(self):
        for kind, file in self.files.items():
            self.check(kind, speedscope(file))

    def test_pprof(self):
        for kind, file in self.files.items():
            value, _ = EXPECTED[kind]
            self.check(kind, pprof(file, value))


if __name__ == "__main__":
    main()
