"""Real programs of Debian as benchmarks, with work that was fixed before the allocator was tuned by it."""

import sys

from errors import BenchError
from foreign import Program
from inputs import cpp_source, git_repository, smt_problem
from servers import PostgreSQL, Redis, Server

COMPILE = ("-std=c++17", "-O1", "-S", "-o", "{scratch}/out.s", "{input}/source.cc")
PROBE_COMPILE = ("-fsyntax-only", "-xc++", "/dev/null")

PROGRAMS: tuple[Program | Server, ...] = (
    Redis(),
    PostgreSQL(),
    Program(
        name="sqlite",
        description="two tables of 45,000 and 90,000 rows: filled, indexed, joined, grouped, changed, vacuumed",
        package="sqlite3",
        command=("/usr/bin/sqlite3", "-batch", "-init", "/dev/null", "{scratch}/db", ".read {scripts}/tables.sql"),
        probe=("/usr/bin/sqlite3", "--version"),
    ),
    Program(
        name="python",
        description="JSON documents, a graph of objects, texts, fractions of long integers",
        package="python3",
        command=("/usr/bin/env", "PYTHONHASHSEED=0", "/usr/bin/python3", "-sB", "{scripts}/objects.py"),
        probe=("/usr/bin/python3", "--version"),
    ),
    Program(
        name="perl",
        description="records of hashes and arrays that come and go, words of texts counted and sorted",
        package="perl",
        command=("/usr/bin/env", "PERL_HASH_SEED=0", "/usr/bin/perl", "{scripts}/objects.pl"),
        probe=("/usr/bin/perl", "-v"),
    ),
    Program(
        name="lua",
        description="trees, tables, closures and strings that come and go",
        package="lua5.4",
        command=("/usr/bin/lua5.4", "{scripts}/objects.lua"),
        probe=("/usr/bin/lua5.4", "-v"),
    ),
    Program(
        name="node",
        description="JSON through zlib and checksums, buffers of 4 to 32 KiB, functions to be compiled",
        package="nodejs",
        command=("/usr/bin/node", "{scripts}/objects.js"),
        probe=("/usr/bin/node", "--version"),
    ),
    Program(
        name="gcc",
        description="g++ -O1 on a source of templates over twenty standard headers",
        package="g++",
        command=("/usr/bin/g++", *COMPILE),
        probe=("/usr/bin/g++", *PROBE_COMPILE),
        generate=cpp_source,
        outputs="out.s",
    ),
    Program(
        name="clang",
        description="clang++ -O1 on the same source",
        package="clang",
        command=("/usr/bin/clang++", *COMPILE),
        probe=("/usr/bin/clang++", *PROBE_COMPILE),
        generate=cpp_source,
        outputs="out.s",
    ),
    Program(
        name="ghostscript",
        description="twelve pages of text, curves, clipped pictures and shadings to pixels",
        package="ghostscript",
        command=(
            *("/usr/bin/gs", "-q", "-dBATCH", "-dNOPAUSE", "-dSAFER", "-sDEVICE=ppmraw", "-r72"),
            *("-o", "{scratch}/%02d.ppm", "{scripts}/pages.ps"),
        ),
        probe=("/usr/bin/gs", "--version"),
        outputs="*.ppm",
    ),
    Program(
        name="z3",
        description="three job-shop schedules and two chains of writes to arrays",
        package="z3",
        command=("/usr/bin/z3", "{input}/problem.smt2"),
        probe=("/usr/bin/z3", "--version"),
        generate=smt_problem,
    ),
    Program(
        name="rocksdb",
        description="db_bench: 100,000 keys written, compacted, read, overwritten and scanned",
        package="rocksdb-tools",
        command=(
            *("/usr/bin/db_bench", "--db={scratch}", "--num=100000", "--value_size=200", "--seed=1", "--threads=1"),
            "--benchmarks=fillrandom,compact,readrandom,overwrite,readseq",
            *("--compression_type=none", "--cache_size=8388608", "--write_buffer_size=4194304", "--disable_wal=1"),
        ),
        probe=("/usr/bin/db_bench", "--version"),
        witness=r"\d+ of \d+ found",
    ),
    Program(
        name="java",
        description="OpenJDK starts without its archive of classes and compiles every method it runs",
        package="openjdk-17-jre-headless",
        command=("/usr/bin/java", "-Xshare:off", "-Xcomp", "-XX:+UseSerialGC", "--version"),
        probe=("/usr/bin/java", "-version"),
    ),
    Program(
        name="git",
        description="log, search, blame, repack and fsck of a repository of 220 commits",
        package="git",
        command=("/bin/bash", "{scripts}/history.sh", "{input}"),
        probe=("/usr/bin/git", "--version"),
        generate=git_repository,
    ),
)


def selected_programs(only: str | None) -> list[Program | Server]:
    """Those of --only that are installed; a line on stderr names what the others need."""
    names = [program.name for program in PROGRAMS]
    wanted = only.split(",") if only else names
    for name in wanted:
        if name not in names:
            raise BenchError(f"--only {name}: no such program; there are {', '.join(sorted(names))}")
    found = []
    for program in PROGRAMS:
        if program.name not in wanted:
            continue
        if missing := program.missing():
            print(f"bench: {program.name} skipped: no {missing}: apt-get install {program.package}", file=sys.stderr)
        else:
            found.append(program)
    if not found:
        raise BenchError("none of the programs is installed: ./run bench --programs installs them")
    return found
