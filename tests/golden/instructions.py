#!/usr/bin/env python3
"""Count the allocator's instructions by callgrind and hold them against a golden file.

    instructions.py [--update] --workload PROGRAM --release LIBRARY --telemetry LIBRARY [--compiler NAME]

  pair   malloc(16) and its free, when neither has to refill: telemetry executes exactly as many as release
  loop   the same in a loop, refills included, instructions a pair
  mixed  10^6 calls of the whole family with bursts, retirements, large and huge sizes, instructions a call:
         telemetry executes at most 1 % more than release

Only instructions of the allocator's library count, not those of the workload or
of libc. No figure may grow against instructions.json; after a change that is
worth its instructions, write the file anew with --update and commit it.
"""

import argparse
import collections
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).with_name("instructions.json")
LOOP_PAIRS = 40_000
TELEMETRY_MARGIN = 1.01
GROWTH = {"pair": 0.5, "loop": 0.02, "mixed": 0.02}  # pair: instructions; others: share
MEASURES = ("pair", "loop", "mixed")


def self_cost(profile, library):
    """Instructions that a callgrind profile spent in an object file itself.

    Format: https://valgrind.org/docs/manual/cl-format.html. Names are written
    once, as "(7) name", and later as "(7)"; the line after "calls=" is the
    inclusive cost of a call and belongs to the callee.
    """
    names, current, total, skip = {}, None, 0, False
    for line in profile.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"(ob|cob)=\((\d+)\)(?: (.*))?$", line)
        if match:
            kind, number, name = match.groups()
            if name is not None:
                names[number] = name
            if kind == "ob":
                current = names[number]
        elif line.startswith("calls="):
            skip = True
        elif re.match(r"[+*\-0-9]", line):
            if not skip and current is not None and os.path.realpath(current) == library:
                total += int(line.split()[1]) if len(line.split()) > 1 else 0
            skip = False
    return total


def run(workload, mode, library):
    """Self cost of the library in each dump of the workload, and what it printed."""
    library = os.path.realpath(library)
    with tempfile.TemporaryDirectory() as directory:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HAKMEM_")}
        environment["LD_PRELOAD"] = library
        # Without randomised addresses, so that two runs take the same paths;
        # without valgrind's own malloc in place of the one that is measured.
        result = subprocess.run(
            ["setarch", platform.machine(), "-R", "valgrind", "--tool=callgrind",
             "--soname-synonyms=somalloc=NONE", f"--callgrind-out-file={directory}/out", workload, mode],
            env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"callgrind of {mode} with {library} failed:\n{result.stderr}")
        # The workload's dumps are out.1, out.2, ...; the last one is what came after.
        dumps = sorted(pathlib.Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        costs = [self_cost(dump, library) for dump in dumps]
    return costs, result.stderr


def measure(workload, library):
    """The three figures of one library."""
    steps, _ = run(workload, "pair", library)
    pair, often = collections.Counter(steps).most_common(1)[0]
    if pair == 0 or often * 2 < len(steps):
        sys.exit(f"no usual cost of a pair with {library}: {steps}")
    loop, _ = run(workload, "loop", library)
    mixed, output = run(workload, "mixed", library)
    calls = int(re.search(r"^calls (\d+)$", output, flags=re.M).group(1))
    return {"pair": pair, "loop": round(loop[0] / LOOP_PAIRS, 2), "mixed": round(mixed[0] / calls, 2)}


def compare_builds(figures):
    """Yield what is wrong between release and telemetry."""
    release, telemetry = figures["release"], figures["telemetry"]
    if telemetry["pair"] != release["pair"]:
        yield f"malloc(16) and free execute {telemetry['pair']} instructions in telemetry, {release['pair']} in release"
    if telemetry["mixed"] > release["mixed"] * TELEMETRY_MARGIN:
        share = 100 * (telemetry["mixed"] / release["mixed"] - 1)
        yield f"mixed calls execute {share:.2f} % more instructions in telemetry than in release"


def compare_golden(figures, golden):
    """Yield what grew; print what shrank so far that the golden file should follow."""
    for build, measured in figures.items():
        for name in MEASURES:
            before, now = golden[build][name], measured[name]
            room = GROWTH[name] if name == "pair" else before * GROWTH[name]
            if now > before + room:
                yield f"{build} {name} grew from {before} to {now} instructions"
            elif now < before - room:
                print(f"note: {build} {name} fell from {before} to {now}; keep it with --update")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the golden file from this measurement")
    parser.add_argument("--workload", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--telemetry", required=True)
    parser.add_argument("--compiler", default="unknown")
    arguments = parser.parse_args()
    for library in (arguments.release, arguments.telemetry):
        if not os.path.exists(library):
            sys.exit(f"{library} is not built: ./run build release telemetry")

    figures = {build: measure(arguments.workload, getattr(arguments, build)) for build in ("release", "telemetry")}
    for build, measured in figures.items():
        print(f"{build:10}" + "".join(f"  {name} {measured[name]}" for name in MEASURES))
    problems = list(compare_builds(figures))

    if arguments.update:
        GOLDEN.write_text(json.dumps({"compiler": arguments.compiler, **figures}, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {GOLDEN}")
    else:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
        compiler = golden.pop("compiler")
        if compiler != arguments.compiler:
            print(f"note: the golden file is of {compiler}, this is {arguments.compiler}: only the builds are compared")
        else:
            growth = list(compare_golden(figures, golden))
            problems += growth
            if growth:
                problems.append("if the growth is worth it: ctest's command of this test with --update, and commit "
                                "tests/golden/instructions.json with the reason")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
