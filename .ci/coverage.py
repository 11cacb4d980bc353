#!/usr/bin/env python3
"""Lines and branches of allocator/ that the tests of a build have run, by file.

Reads the counts that gcc leaves beside the objects of a build with --coverage.
Left out are what gcc marks as thrown by calls, which is no branch of ours, the branches
of HAKMEM_ASSERT, whose other side is never to run, and the code of the hardened build.
What is compiled several times (headers, templates) counts as run where any of its
copies ran.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

OBJECTS_AT_ONCE = 20
# Compiled into every build, and called in none but one that this is not.
NOT_IN_THE_BUILD = {"allocator/thread_cache/hardened.cc"}


def gcov_reports(build):
    """What gcov says of each object file of the allocator and of tests that include its headers."""
    counts = sorted(str(path.resolve()) for path in build.rglob("*.gcda"))
    if not counts:
        sys.exit(f"coverage: no test has run in {build}")
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        def run(start):
            command = ["gcov", "--json-format", "--branch-probabilities", "--stdout"]
            return subprocess.run(command + counts[start:start + OBJECTS_AT_ONCE],
                                  cwd=scratch, capture_output=True, text=True, check=True).stdout
        for output in pool.map(run, range(0, len(counts), OBJECTS_AT_ONCE)):
            yield from (json.loads(line) for line in output.splitlines() if line.startswith("{"))


def lines_of_assertions(path):
    source = path.read_text(encoding="utf-8").splitlines()
    return {number for number, text in enumerate(source, 1) if re.search(r"\bHAKMEM_ASSERT\(", text)}


def real_branches(branches):
    """The counts of those that the source has: of a call that may throw neither side is one."""
    kept = []
    after_throw = False
    for branch in branches:
        if branch["throw"]:
            if kept and kept[-1]["fallthrough"]:
                kept.pop()
            else:
                after_throw = True
        elif after_throw:
            after_throw = False
        else:
            kept.append(branch)
    return [branch["count"] for branch in kept]


def collect(build, root, folder):
    """{file: {line: runs}} and {file: {(line, branch): runs}} over all copies of the code."""
    lines = collections.defaultdict(collections.Counter)
    copies = collections.defaultdict(list)  # (file, line): the branches of each copy
    assertions = {}
    for report in gcov_reports(build):
        base = pathlib.Path(report["current_working_directory"])
        for entry in report["files"]:
            path = (base / entry["file"]).resolve()
            if not path.is_relative_to(root / folder):
                continue
            name = path.relative_to(root).as_posix()
            if name in NOT_IN_THE_BUILD:
                continue
            if name not in assertions:
                assertions[name] = lines_of_assertions(path)
            for line in entry["lines"]:
                number = line["line_number"]
                lines[name][number] += line["count"]
                real = real_branches(line["branches"])
                if real and number not in assertions[name]:
                    copies[name, number].append(real)
    branches = collections.defaultdict(collections.Counter)
    for (name, number), counts in copies.items():
        # What is inlined several times into one object stands there one copy after the other.
        once = min(map(len, counts))
        for copy in counts:
            for index, count in enumerate(copy):
                branches[name][number, index % once] += count
    return lines, branches


def share(counts):
    """Text such as '  93.1 % of   120'."""
    if not counts:
        return f"{'-':>7}   of {0:5}"
    run = sum(1 for count in counts.values() if count > 0)
    return f"{100 * run / len(counts):6.1f} % of {len(counts):5}"


def merged(by_file):
    """All counts under keys that differ by file."""
    return {(name, key): count for name, counts in by_file.items() for key, count in counts.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--folder", default="allocator")
    parser.add_argument("--missing", action="store_true", help="also the lines that have a branch never taken")
    arguments = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parents[1]
    lines, branches = collect(arguments.build, root, arguments.folder)
    print(f"{'file':46} {'lines':>16} {'branches':>18}")
    for name in sorted(lines):
        print(f"{name:46} {share(lines[name])}  {share(branches[name])}")
        if arguments.missing:
            missed = sorted({line for (line, _), count in branches[name].items() if count == 0})
            print("    " + " ".join(map(str, missed)))
    print(f"{'all of ' + arguments.folder:46} {share(merged(lines))}  {share(merged(branches))}")


if __name__ == "__main__":
    main()
