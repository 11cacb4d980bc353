#!/usr/bin/env python3
"""Check what a preload library exports, what it needs at load time, and what it must not contain.

    symbols.py exports LIBRARY    exported names are glibc's malloc family, its C23 additions, operator
                                  new and delete, and what hakmem.h declares: no name less, none more
    symbols.py needs LIBRARY      libc alone, and nothing of it newer than GLIBC_2.28
    symbols.py archive LIBRARY    the same of a static library: nothing internal can clash with a program's names
    symbols.py release LIBRARY    no text and no storage of statistics or debug code
    symbols.py debug LIBRARY      the same texts are there in a debug build, so that the check above means something
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
OLDEST_GLIBC = (2, 28)

# Names of glibc that look like the malloc family and are not part of what a
# replacement provides. Whatever glibc adds later has to be judged here.
NOT_OURS = {
    r"_.*": "internal names and hooks of glibc",
    r"cfree": "removed from glibc 2.26, only reached by programs linked before it",
    r"mallwatch": "a variable of mtrace, which is gone",
    r"f?allocate(64)?|posix_fallocate(64)?|fallocate64": "files",
    r"free(addrinfo|ifaddrs|locale)|if_freenameindex|globfree(64)?|regfree|wordfree|xdr_free":
        "give back structures of other functions, by free()",
    r"obstack_(free|alloc_failed_handler)": "obstacks, built on malloc",
    r"pkey_(alloc|free)": "memory protection keys",
    r"inet6_option_alloc": "network headers",
}
MALLOC_LIKE = re.compile(r"alloc|free|memalign|^mall")

# C23, in glibc from 2.43 on.
C23 = {"free_sized", "free_aligned_sized"}

# The replaceable functions of [new.delete] by their mangled names: single and
# array, plain and sized delete, aligned, nothrow.
NOTHROW, ALIGNED = "RKSt9nothrow_t", "St11align_val_t"
OPERATORS = {
    f"_Z{operator}{arguments}"
    for operators, forms in (
        (("nwm", "nam"), ("", NOTHROW, ALIGNED, ALIGNED + NOTHROW)),
        (("dlPv", "daPv"), ("", "m", NOTHROW, ALIGNED, "m" + ALIGNED, ALIGNED + NOTHROW)),
    )
    for operator in operators
    for arguments in forms
}

# Functions that live in another library of older glibc releases come with the
# version in which they moved to libc; a strong reference to the old version
# binds here and fails there.
MOVED_IN = ("GLIBC_2.34", "GLIBC_2.33")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def dynamic_symbols(path):
    """(type letter, name, separator, version) of each dynamic symbol; separator '@@' marks the default version."""
    for line in run("nm", "-D", str(path)).splitlines():
        letter, symbol = line.split()[-2:]
        name, separator, version = re.match(r"([^@]*)(@*)(.*)", symbol).groups()
        yield letter, name, separator, version


def libc_path():
    for line in run("ldd", "/bin/sh").splitlines():
        match = re.search(r"libc\.so\.6 => (\S+)", line)
        if match:
            return match.group(1)
    sys.exit("symbols: cannot find libc.so.6 by ldd /bin/sh")


def defined_names(path):
    return {name for letter, name, _, _ in dynamic_symbols(path) if letter not in "Uwv"}


def malloc_family():
    names = {name for letter, name, separator, _ in dynamic_symbols(libc_path())
             if separator == "@@" and letter in "TW" and MALLOC_LIKE.search(name)}
    return {name for name in names if not any(re.fullmatch(pattern, name) for pattern in NOT_OURS)}


def declared_functions():
    """Functions that the public header declares: a declarator at the start of a statement, not in a comment."""
    header = ROOT / "allocator" / "api" / "hakmem.h"
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header.read_text(encoding="utf-8"), flags=re.S)
    return set(re.findall(r"\b(hakmem_\w+)\s*\(", text))


def interface():
    return malloc_family() | C23 | OPERATORS | declared_functions()


def check_exports(library):
    family = malloc_family()
    # A filter that catches nothing would make the comparison empty.
    core = {"malloc", "free", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc", "posix_memalign",
            "valloc", "pvalloc", "malloc_usable_size", "malloc_trim", "mallinfo", "malloc_stats", "mallopt",
            "malloc_info"}
    yield from (f"the filter misses {name} of libc" for name in sorted(core - family))
    wanted = interface()
    exported = defined_names(library)
    yield from (f"does not export {name}" for name in sorted(wanted - exported))
    yield from (f"exports {name}, which is not part of the interface" for name in sorted(exported - wanted))


def check_archive(library):
    symbols = {}
    for line in run("nm", "--extern-only", "--defined-only", str(library)).splitlines():
        fields = line.split()
        if len(fields) == 3:
            symbols[fields[2]] = fields[1]
    wanted = interface()
    yield from (f"does not define {name}" for name in sorted(wanted - symbols.keys()))
    yield from (f"defines {name}, which is not part of the interface" for name in sorted(symbols.keys() - wanted))
    yield from (f"defines {name} strongly, so that a program cannot replace it"
                for name in sorted(OPERATORS & symbols.keys()) if symbols[name] != "W")


def check_needs(library):
    dynamic = run("readelf", "-dW", str(library))
    for needed in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        if needed not in ("libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"):
            yield f"needs {needed} at load time"
    if "TEXTREL" in dynamic:
        yield "has text relocations"
    if not re.search(r"\(FLAGS\).*BIND_NOW|\(FLAGS_1\).*NOW", dynamic):
        yield "does not bind its symbols at start (-z now)"
    if "NODELETE" not in dynamic:
        yield "can be unloaded by dlclose while its blocks live (-z nodelete)"

    in_libc, default_version = set(), {}
    for letter, name, separator, version in dynamic_symbols(libc_path()):
        if letter not in "Uwv":
            in_libc.add(name)
            if separator == "@@":
                default_version[name] = version
    loader = {"__tls_get_addr", "_rtld_global", "_dl_find_object"}
    for letter, name, _, version in dynamic_symbols(library):
        if letter not in "Uwv":
            continue
        number = re.fullmatch(r"GLIBC_([0-9.]+)", version)
        if number and tuple(int(part) for part in number.group(1).split(".")) > OLDEST_GLIBC:
            yield f"requires {name}@{version}, newer than GLIBC_{'.'.join(map(str, OLDEST_GLIBC))}"
        elif version and not number:
            yield f"requires {name}@{version}, which is not of glibc"
        if letter == "U" and name not in in_libc | loader:
            yield f"requires {name}, which libc does not have (bind it weakly)"
        if letter == "U" and version not in MOVED_IN and default_version.get(name) in MOVED_IN:
            yield (f"requires {name}@{version}, which stood outside libc.so.6 before {default_version[name]} "
                   "(bind it weakly)")


def metric_names():
    text = (ROOT / "allocator" / "metrics" / "catalogue.def").read_text(encoding="utf-8")
    return set(re.findall(r'"(hakmem_\w+)"', text))


def assertion_texts():
    """Conditions of the allocator's assertions as the preprocessor spells them, long enough to be no accident."""
    texts = set()
    for path in (ROOT / "allocator").rglob("*"):
        if path.suffix in (".cc", ".h"):
            for condition in re.findall(r"HAKMEM_ASSERT\((.*?)\);", path.read_text(encoding="utf-8"), flags=re.S):
                texts.add(" ".join(condition.split()))
    return {text for text in texts if len(text) >= 8 and "condition" not in text}


def loaded_bytes(library):
    """The library without symbols and debug information: what a process sees."""
    with tempfile.TemporaryDirectory() as directory:
        stripped = pathlib.Path(directory) / "stripped"
        run("strip", "--strip-all", "-o", str(stripped), str(library))
        return stripped.read_bytes()


DEBUG_TEXTS = {"assertion failed", "is_consistent", "lock rank", "LockRank"}
# Writable symbols that hold a count of what happened, whatever they are called.
STAT_STORAGE = re.compile(r"counter|statistic|stats|hooks|histogram|initial_shard|exact_count|acquisitions",
                          re.IGNORECASE)


def writable_symbols(library):
    """Names of variables in sections that stay writable after relocation."""
    sections = {}
    for match in re.finditer(r"^ *\[ *(\d+)\] (\S.*)$", run("readelf", "-SW", str(library)), flags=re.M):
        # name, type, address, offset, size, entry size, flags if any, link, info, alignment
        fields = match.group(2).split()
        flags = fields[6] if len(fields) == 10 else ""
        sections[match.group(1)] = "W" in flags and fields[0] != ".data.rel.ro"
    names = []
    for line in run("readelf", "-sWC", str(library)).splitlines():
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[3] in ("OBJECT", "TLS") and sections.get(fields[6]):
            names.append(fields[7])
    return names


def check_release(library):
    content = loaded_bytes(library)
    for text in sorted(metric_names() | assertion_texts() | DEBUG_TEXTS):
        if text.encode() in content:
            yield f"contains the text '{text}'"
    for symbol in writable_symbols(library):
        if STAT_STORAGE.search(symbol):
            yield f"has storage for statistics: {symbol}"


def check_debug(library):
    content = loaded_bytes(library)
    texts = assertion_texts()
    present = [text for text in texts if text.encode() in content]
    if not texts or 2 * len(present) < len(texts) or b"assertion failed" not in content:
        yield f"only {len(present)} of {len(texts)} assertion texts found: the check of the release library is blind"
    if not any(STAT_STORAGE.search(symbol) for symbol in writable_symbols(library)):
        yield "no storage for statistics found by name: the check of the release library is blind"


CHECKS = {"exports": check_exports, "archive": check_archive, "needs": check_needs, "release": check_release, "debug": check_debug}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    library = pathlib.Path(sys.argv[2])
    findings = list(CHECKS[sys.argv[1]](library))
    for finding in findings:
        print(f"{library.name} {finding}")
    print(f"{sys.argv[1]}: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
