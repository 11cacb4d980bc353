#!/usr/bin/env python3
"""Count the allocator's instructions by callgrind and hold them against a golden file.

    instructions.py [--update] --workload PROGRAM --release LIBRARY --telemetry LIBRARY [--compiler NAME]

  pair   malloc(16) and its free, when neither has to refill: telemetry executes exactly as many as release
  loop   the same in a loop, refills included, instructions a pair
  mixed  10^6 calls of the whole family with bursts, retirements, large and huge sizes, instructions a call, with
         what the calls execute in libc: telemetry executes at most 3 % more than release (the aim is 1 %)
  own    the same without libc, a closer look that only has to keep from growing

Instructions of the workload itself never count. No figure may grow against instructions.json; after a change that is
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
# The aim is 1 %. Of this workload one call in 30 refills, and a refill counts six
# figures; see docs/measurements.md for what was tried and what is left.
TELEMETRY_MARGIN = 1.03
GROWTH = {"pair": 0.5, "loop": 0.02, "mixed": 0.02, "own": 0.02}  # pair: instructions; others: share


def self_costs(profile):
    """Instructions that a callgrind profile spent in each object file itself, by its real path.

    Format: https://valgrind.org/docs/manual/cl-format.html. Names are written
    once, as "(7) name", and later as "(7)"; the line after "calls=" is the
    inclusive cost of a call and belongs to the callee.
    """
    names, current, costs, skip = {}, None, collections.Counter(), False
    for line in profile.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"(ob|cob)=\((\d+)\)(?: (.*))?$", line)
        if match:
            kind, number, name = match.groups()
            if name is not None:
                names[number] = os.path.realpath(name)
            if kind == "ob":
                current = names[number]
        elif line.startswith("calls="):
            skip = True
        elif re.match(r"[+*\-0-9]", line):
            if not skip:
                costs[current] += int(line.split()[1])
            skip = False
    return costs


def run(workload, mode, library):
    """The costs by object file in each dump of the workload, and what it printed."""
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
        return [self_costs(dump) for dump in dumps], result.stderr


def measure(workload, library):
    """The figures of one library."""
    library = os.path.realpath(library)
    steps = [costs[library] for costs in run(workload, "pair", library)[0]]
    pair, often = collections.Counter(steps).most_common(1)[0]
    if pair == 0 or often * 2 < len(steps):
        sys.exit(f"no usual cost of a pair with {library}: {steps}")
    loop = run(workload, "loop", library)[0][0][library]
    dumps, output = run(workload, "mixed", library)
    calls = int(re.search(r"^calls (\d+)$", output, flags=re.M).group(1))
    mixed = dumps[0].total() - dumps[0][os.path.realpath(workload)]
    return {"pair": pair, "loop": round(loop / LOOP_PAIRS, 2), "mixed": round(mixed / calls, 2),
            "own": round(dumps[0][library] / calls, 2)}


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
        for name in GROWTH:
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
        print(f"{build:10}" + "".join(f"  {name} {measured[name]}" for name in GROWTH))
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
                problems.append("if the growth is worth it: ./run build release telemetry, then cmake --build "
                                "build/telemetry --target golden_update, and commit tests/golden/instructions.json "
                                "with the reason")
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
