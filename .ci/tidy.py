#!/usr/bin/env python3
"""Run clang-tidy over the sources of a build directory, with a cache.

A file that passed is not looked at again until its preprocessed text, its
flags, the configuration or clang-tidy changes: clang-tidy takes seconds a
file, the preprocessor a fraction of one. The cache is the user's, so that a
fresh clone finds what passed in another; it holds empty files, named by hash.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEPT_SECONDS = 30 * 86400


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
    """Hash of all that clang-tidy sees of one file but for where the tree is; comments count, NOLINT is one."""
    arguments = compiler_arguments(entry)
    result = subprocess.run(arguments + ["-E", "-CC", "-w"], cwd=entry["directory"], capture_output=True, check=False)
    if result.returncode != 0:
        return None
    seen = "\0".join(arguments).encode() + result.stdout
    return hashlib.sha256(salt + seen.replace(os.fsencode(ROOT), b"")).hexdigest()


def open_cache():
    """The cache's folder, without what was not used for a month."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    cache = home / "hakmem" / "tidy"
    cache.mkdir(parents=True, exist_ok=True)
    for file in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run may have removed it
            if file.stat().st_mtime < time.time() - KEPT_SECONDS:
                file.unlink()
    return cache


def check(entry, build_dir, cache, salt):
    """Return (file, output of clang-tidy or None when it is clean, whether the cache answered)."""
    key = fingerprint(entry, salt)
    if key and (cache / key).exists():
        (cache / key).touch()
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
    parser.add_argument("paths", nargs="+", help="folders and files of the source tree to check")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    build_dir = arguments.build_dir.resolve()
    cache = open_cache()
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    salt = version + (ROOT / ".clang-tidy").read_bytes()

    database = json.loads((build_dir / "compile_commands.json").read_text())
    wanted = [ROOT / path for path in arguments.paths]
    entries = {entry["file"]: entry for entry in database
               if any(pathlib.Path(entry["file"]).is_relative_to(path) for path in wanted)}
    if not entries:
        sys.exit(f"tidy: no file of {', '.join(arguments.paths)} in {build_dir}/compile_commands.json")

    failed, cached = 0, 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(check, entry, build_dir, cache, salt) for entry in entries.values()]
        for future in concurrent.futures.as_completed(futures):
            file, output, from_cache = future.result()
            cached += from_cache
            if output is not None:
                failed += 1
                print(f"{os.path.relpath(file, ROOT)}:\n{output}", flush=True)
    print(f"tidy: {len(entries)} files, {cached} unchanged since they passed, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
