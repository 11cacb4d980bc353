#!/usr/bin/env python3
"""Check that includes run downward only, and that one file alone asks which build this is.

The floors of allocator/, lowest first, are FLOORS: a floor includes itself and
what stands before it. telemetry/ stands on allocator/base and allocator/metrics;
its preload.cpp, which puts the telemetry library together, may include all of
telemetry/ and any floor of the allocator. exporter/ stands on telemetry/. The
allocator includes neither.
"""

import argparse
import pathlib
import re
import sys

FLOORS = ["base", "platform", "metrics", "page_arena", "superslab", "shared_pool", "thread_cache", "api"]
SOURCE_SUFFIXES = {".cc", ".cpp", ".c", ".h", ".def", ".inc"}
PARTS = ("allocator", "telemetry", "exporter")
READ_BY_TELEMETRY = {"allocator/base", "allocator/metrics"}
COMPOSITION_ROOT = "telemetry/preload.cpp"
BUILD_PROFILE = "allocator/base/build_profile.h"

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
CONDITION = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif|elifdef|elifndef)\b(.*)")
BUILD_WORD = re.compile(r"\b(?:HAKMEM_BUILD\w*|NDEBUG|HAKMEM_(?:RELEASE|DEBUG|TELEMETRY|HARDENED)\w*)\b")


def floor_of(path):
    """'allocator/base/bits.h' -> 'allocator/base', 'telemetry/page/x.h' -> 'telemetry'; None for others."""
    parts = pathlib.PurePosixPath(path).parts
    if not parts or parts[0] not in PARTS:
        return None
    if parts[0] == "allocator":
        return "/".join(parts[:2]) if len(parts) > 2 else "allocator"
    return parts[0]


def allowed(source, target):
    """Whether a file `source` may include the file `target`; both are paths from the root."""
    from_floor, to_floor = floor_of(source), floor_of(target)
    if to_floor is None:
        return True
    if from_floor.startswith("allocator/"):
        if not to_floor.startswith("allocator/"):
            return False
        names = from_floor.split("/")[1], to_floor.split("/")[1]
        return all(name in FLOORS for name in names) and FLOORS.index(names[1]) <= FLOORS.index(names[0])
    if source == COMPOSITION_ROOT:
        return to_floor == "telemetry" or to_floor.startswith("allocator/")
    if from_floor == "telemetry":
        return to_floor == "telemetry" or to_floor in READ_BY_TELEMETRY
    return to_floor in {"exporter", "telemetry"} | READ_BY_TELEMETRY


def resolve(root, source, name):
    """The path from the root that an include means, or None when it is not a file of ours."""
    beside = (root / source).parent / name
    for candidate in (root / name, beside):
        candidate = candidate.resolve()
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate.relative_to(root).as_posix()
    # A header that a build writes still has a place in the house.
    return name if floor_of(name) else None


def check_file(root, source):
    """Yield (line number, text) for every rule that `source` breaks."""
    in_allocator = source.startswith("allocator/")
    if in_allocator and floor_of(source).split("/")[-1] not in FLOORS:
        yield 1, f"is on no floor of the allocator ({' '.join(FLOORS)})"
        return
    text = (root / source).read_text(encoding="utf-8").replace("\\\n", "  ")
    for number, line in enumerate(text.splitlines(), 1):
        include = INCLUDE.match(line)
        if include:
            name = include.group(1) or include.group(2)
            target = resolve(root, source, name)
            if target is None:
                if include.group(1):
                    yield number, f'includes "{name}", which is not a file of the tree'
            elif not allowed(source, target):
                yield number, f"{floor_of(source)} must not include {target}"
            elif include.group(1) and target != name and not name.startswith("hakmem"):
                yield number, f'includes "{name}": write it from the root, "{target}"'
        condition = CONDITION.match(line)
        if condition and in_allocator and source != BUILD_PROFILE:
            word = BUILD_WORD.search(condition.group(1))
            if word:
                yield number, f"asks about the build ({word.group(0)}); only {BUILD_PROFILE} may, use kBuild"


def check_tree(root):
    """All broken rules of the tree as lines of text, and the number of files read."""
    root = root.resolve()
    findings, files = [], 0
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and path.is_file():
                files += 1
                source = path.relative_to(root).as_posix()
                findings += [f"{source}:{number}: {text}" for number, text in check_file(root, source)]
    return findings, files


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parents[2])
    findings, files = check_tree(parser.parse_args().root)
    for finding in findings:
        print(finding)
    if not files:
        print("no source files found")
    print(f"layering: {files} files, {len(findings)} findings")
    return 1 if findings or not files else 0


if __name__ == "__main__":
    sys.exit(main())
