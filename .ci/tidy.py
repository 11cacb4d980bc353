#!/usr/bin/env python3
"""Run clang-tidy over the sources of a build directory, with a cache.

A file that passed is not looked at again until its preprocessed text, the
configuration or clang-tidy changes: clang-tidy takes seconds a file, the
preprocessor a fraction of one.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys


def compiler_arguments(entry):
    """The compile command without a launcher such as ccache and without its output."""
    words = shlex.split(entry["command"]) if "command" in entry else list(entry["arguments"])
    while pathlib.Path(words[0]).name in ("ccache", "sccache"):
        words = words[1:]
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "-MF", "-MT"):
            skip = True
        elif word not in ("-c", "-MD"):
            kept.append(word)
    return kept


def fingerprint(entry, salt):
    """Hash of all that clang-tidy sees of one file; comments count, NOLINT is one."""
    result = subprocess.run(compiler_arguments(entry) + ["-E", "-CC", "-w"], cwd=entry["directory"],
                            capture_output=True, check=False)
    if result.returncode != 0:
        return None
    return hashlib.sha256(salt + result.stdout).hexdigest()


def check(entry, build_dir, cache, salt):
    """Return (file, output of clang-tidy or None when it is clean, whether the cache answered)."""
    key = fingerprint(entry, salt)
    if key and (cache / key).exists():
        return entry["file"], None, True
    result = subprocess.run(["clang-tidy", "--quiet", "-p", str(build_dir), entry["file"]],
                            capture_output=True, text=True, check=False)
    if result.returncode == 0:
        if key:
            (cache / key).touch()
        return entry["file"], None, False
    return entry["file"], result.stdout + result.stderr, False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("folders", nargs="+", help="folders of the source tree to check")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    root = pathlib.Path(__file__).resolve().parent.parent
    build_dir = arguments.build_dir.resolve()
    cache = root / "build" / "tidy-cache"
    cache.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    salt = version + (root / ".clang-tidy").read_bytes()

    wanted = tuple(str(root / folder) + os.sep for folder in arguments.folders)
    database = json.loads((build_dir / "compile_commands.json").read_text())
    entries = {entry["file"]: entry for entry in database if entry["file"].startswith(wanted)}
    if not entries:
        sys.exit(f"tidy: no file of {', '.join(arguments.folders)} in {build_dir}/compile_commands.json")

    failed, cached = 0, 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(check, entry, build_dir, cache, salt) for entry in entries.values()]
        for future in concurrent.futures.as_completed(futures):
            file, output, from_cache = future.result()
            cached += from_cache
            if output is not None:
                failed += 1
                print(f"{os.path.relpath(file, root)}:\n{output}", flush=True)
    print(f"tidy: {len(entries)} files, {cached} unchanged since they passed, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
