#!/usr/bin/env python3
"""Run every case of the misuse programs, and hold what hakmem says of it against the table.

    misuse_test.py [--mode abort|report] [--library PATH] [--build BUILD] PROGRAM...
                                                                        a test; all cases of the programs
    misuse_test.py --compare NAME=LIBRARY... PROGRAM...                 what each allocator detects, as a table;
                                                                        `glibc=` is the C library's own

In mode abort (the default of hakmem) a case ends with exactly one line on stderr, with the pointer that the program has
announced, and SIGABRT. In mode report the line is the same, and the program goes on and ends as if nothing had happened.
"""

import argparse
import collections
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

TEXTS = {
    "DOUBLE_FREE": "double free of",
    "FOREIGN": "not a pointer that hakmem allocated:",
    "INVALID": "not the start of an allocated block:",
    "CORRUPTED": "corrupted free list, a freed block was written to:",
    "SIZE": "freed with a wrong size or alignment:",
}
Case = collections.namedtuple("Case", "program name expected when")
Result = collections.namedtuple("Result", "status lines stderr")


def cases_of(program, build):
    """Those that the build has to notice; of hardened builds more, some sooner or later."""
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    cases = [Case(program, row[0], *(row[3:] if build == "hardened" else row[1:3])) for row in rows]
    return [case for case in cases if case.expected != "SKIP"]


def run(case, library, mode=None):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HAKMEM_")}
    environment.pop("LD_PRELOAD", None)
    if library:
        environment["LD_PRELOAD"] = library
    if mode == "report":
        environment["HAKMEM_ON_ERROR"] = "report"
    # A block that is a sample waits elsewhere for its next use than the case has it.
    if library and "libhakmem" in library and not library.endswith(("libhakmem.so", "libhakmem-hardened.so")):
        environment["HAKMEM_SAMPLE_BYTES"] = "0"
    try:
        process = subprocess.run([case.program, case.name], env=environment, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return Result(None, [], "")
    lines = process.stdout.decode(errors="replace").splitlines()
    return Result(process.returncode, lines, process.stderr.decode(errors="replace"))


def matches(line, text, pointer):
    """Whether the line is that of the message; any pointer will do where the case does not know it."""
    expected = f"hakmem: {text} " + (re.escape(pointer) if pointer else "0x[0-9a-f]+")
    return re.fullmatch(expected, line) is not None


def problem_of(case, result, mode):
    """What is wrong with the result; None when nothing is."""
    if case.expected == "NOTHING":
        fine = result.status == 0 and not result.stderr and result.lines[-2:] == ["went on", "done"]
        return None if fine else "is allowed, but was not let pass"
    if case.expected == "FAULT":
        return None if result.status == -signal.SIGSEGV and not result.stderr else "did not end by SIGSEGV"
    pointer = next((line for line in reversed(result.lines) if line.startswith("0x")), None)
    said = result.stderr.splitlines()
    expected = "INVALID" if case.expected == "INSIDE" else case.expected
    known = [line for line in said if matches(line, TEXTS[expected], pointer)]
    if case.expected == "INSIDE" and not known:
        known = [line for line in said if matches(line, TEXTS["CORRUPTED"], None)]
    if not known:
        return f"should have said {TEXTS[expected]!r} {pointer}"
    if mode == "report":
        # Several lists or blocks may have been written to.
        if result.status != 0 or result.lines[-1:] != ["done"]:
            return "did not go on"
        is_harmed = "a block was handed out twice" in result.lines and case.expected != "INSIDE"
        return "handed a block out twice" if is_harmed else None
    if result.status != -signal.SIGABRT:
        return "did not end by SIGABRT"
    if len(said) != 1:
        return "said more than one line"
    return "was noticed late" if "went on" in result.lines and case.when == "NOW" else None


def check(cases, library, mode):
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: run(case, library, mode), cases))
    failed = 0
    for case, result in zip(cases, results):
        problem = problem_of(case, result, mode)
        if problem:
            failed += 1
            print(f"{os.path.basename(case.program)} {case.name}: {problem}\n    {result.status} {result.lines}\n"
                  f"    {result.stderr[:500]!r}")
    print(f"{len(cases) - failed} of {len(cases)} cases as they should be (mode {mode})")
    return 1 if failed or len(cases) < 20 else 0


def outcome(case, library):
    """How a program ends that misuses the heap: "message" (and SIGABRT), "crash", "hang" or "nothing"."""
    result = run(case, library)
    if result.status is None:
        return "hang"
    if result.status == -signal.SIGABRT and result.stderr:
        return "message"
    return "crash" if result.status < 0 else "nothing"


def compare(cases, libraries):
    """Print a table of what each allocator detects, and what glibc detects but the first of them does not."""
    cases = [case for case in cases if case.expected not in ("NOTHING", "FAULT")]
    groups = list(dict.fromkeys(os.path.basename(case.program).removeprefix("misuse_") for case in cases))
    found = {}
    print("| Allocator | " + " | ".join(groups) + " | ended with a message | crashed | hung | went unnoticed |")
    print("|---" * (len(groups) + 5) + "|")
    for name, library in libraries.items():
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda case, library=library: outcome(case, library), cases))
        found[name] = {case for case, seen in zip(cases, outcomes) if seen == "message"}
        cells = []
        for group in groups:
            members = [case for case in cases if os.path.basename(case.program).removeprefix("misuse_") == group]
            cells.append(f"{sum(case in found[name] for case in members)} of {len(members)}")
        counts = [str(outcomes.count(seen)) for seen in ("message", "crash", "hang", "nothing")]
        print(f"| {name} | " + " | ".join(cells + counts) + " |")
    first = next(iter(libraries))
    missed = sorted(case.name for case in found.get("glibc", set()) - found[first])
    print(f"noticed by glibc and not by {first}: {', '.join(missed) if missed else 'nothing'}")
    return 1 if missed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("abort", "report"), default="abort")
    parser.add_argument("--library", default="")
    parser.add_argument("--build", default="release", help="what the library is (default: %(default)s)")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("programs", nargs="+")
    arguments = parser.parse_args()
    programs = [os.path.abspath(name) for name in arguments.programs if "=" not in name]
    cases = [case for program in programs for case in cases_of(program, arguments.build)]
    if arguments.compare:
        return compare(cases, dict(name.split("=", 1) for name in arguments.programs if "=" in name))
    return check(cases, arguments.library, arguments.mode)


if __name__ == "__main__":
    sys.exit(main())
