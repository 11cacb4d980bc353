#!/usr/bin/env python3
"""Write docs/metrics.md from the catalogue of metrics, or check that it is up to date.

    metrics_reference.py           write docs/metrics.md
    metrics_reference.py --check   exit with 1 when it is stale
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "allocator/metrics/catalogue.def"
HEADER = ROOT / "allocator/metrics/catalogue.h"
FINDINGS = ROOT / "allocator/metrics/findings.def"
OUTPUT = ROOT / "docs/metrics.md"

ROW = re.compile(r'^HAKMEM_METRIC\((k\w+), (\w+), (\w+), (\w+), "([^"]*)", "((?:[^"\\]|\\.)*)"\)$')
SECTION = re.compile(r"^// -- (.+?) -+$")

# Label set -> label name and the array of catalogue.h with its values.
LABELS = {
    "None": [],
    "SizeClass": [("size_class", None)],
    "SizeClassSource": [("size_class", None), ("source", "kRefillSourceNames")],
    "SizeClassSlabState": [("size_class", None), ("state", "kSlabStateNames")],
    "SizeClassFragmentation": [("size_class", None), ("kind", "kFragmentationNames")],
    "Step": [("step", "kRefillStepNames")],
    "KernelCall": [("call", "kKernelCallNames")],
    "SlowCall": [("call", "kSlowCallNames")],
    "Lock": [("lock", "kLockNames")],
    "SuperslabState": [("state", "kSuperslabStateNames")],
    "BytesKind": [("kind", "kBytesKindNames")],
    "Fragmentation": [("kind", "kFragmentationNames")],
    "Part": [("part", "kPartNames")],
    "SizeClassOccupancy": [("size_class", None), ("occupancy", "kOccupancyNames")],
    "Occupancy": [("occupancy", "kOccupancyNames")],
    "AtPeak": [("kind", "kAtPeakNames")],
    "KernelState": [("state", "kKernelStateNames")],
    "CgroupFigure": [("kind", "kCgroupFigureNames")],
    "Finding": [("finding", "kFindings")],
    "PageProblem": [("problem", "kPageProblemNames")],
    "MemoryError": [("kind", "kMemoryErrorNames")],
    "Build": [("version", None), ("build", None)],
    "Site": [("site", None)],
}

INTRODUCTION = """\
# Metrics

<!-- Written by docs/metrics_reference.py from allocator/metrics/catalogue.def: edit that, not this. -->

Every family below is exported under exactly this name by the embedded endpoint (`HAKMEM_LISTEN`) and, with the
further labels `pid`, `comm`, and `container` or `unit`, by `hakmem-exporter`. The telemetry library counts on cold paths only: at refills
of thread caches, when their bins are full, and at state changes of slabs. Gauges are measured when the endpoint is
scraped, and by processes without one at most once a second and for at most 1 % of the time.

## Reading the figures

**Labels.** `size_class` is the size of one object in bytes, `large` (a run of units in a superslab) or `huge` (a
mapping of its own). Only classes in use have rows, at most 24 by weight; the rest is summed as `other`. Twelve rows
go to the heaviest classes of the first scrape, the others to classes that come to hold a MiB and 1 % of the heap. A
class that was shown stays shown, and what it counted before stays in `other`, so neither ever falls. Lifetimes, which
the endpoint of a process alone shows, have rows for the classes of which 16 samples and 1 % of all were freed, at
most 24 by samples: much may come and go in a class that holds little. Large and huge need no such share, and half of
the rows are held back for classes that come to 256 samples. `hakmem-exporter` shows at
most 60 series a process, with classes summed as `all`; `/metrics?pid=N` shows process N in full. `container` is the
start of a container's id and `unit` the systemd unit, where the cgroup of a process names one and the exporter sees
that process, which one in another container does not. A process gets series
of its own when it is a minute old (`--young SECONDS`): until then it is part of `pid="other"`, the sum over all
processes of one `comm` and `container` or `unit` that are younger or have ended. There what a process had counted
before stays when it gets its own series, which then start from zero, and there its counters go when it ends: so each
event stands in one series, and no counter ever falls. Ended processes have no gauges, sums no ratios. An embedded
endpoint shows its own process without those labels, and processes that descend from it with them, each by pid at once.

**The account of resident memory.** `hakmem_resident_bytes` has a closed list of parts, and they add up to
`hakmem_process_resident_bytes` but for `hakmem_resident_unexplained_bytes`:

| part | what it is | where the figure comes from |
| --- | --- | --- |
| `live` | what the program asked for and holds | slabs, less thread caches and rounding; at most what is resident |
| `internal_fragmentation` | rounding up to size classes | sizes of requests observed at refills; exact for large and huge |
| `thread_cache` | free objects waiting in thread caches | the bins of the threads |
| `slab_free` | free objects and uncarved room in slabs that hold objects | resident pages of those slabs, less the above |
| `empty_slab` | slabs without a single object | resident pages of those slabs |
| `retained` | free units of superslabs and freed huge mappings, kept for reuse | resident pages |
| `metadata` | records of slabs, thread caches, registries | resident pages |
| `telemetry` | the stats page, the exporter's libraries, stack and tables | resident pages |
| `outside` | everything else: program, libraries, stacks, files, other mappings | resident pages |

`hakmem_process_memory_bytes` tells apart what the kernel alone knows: huge pages, memory given up by `MADV_FREE`, and
swapped memory. It comes from `smaps_rollup`, which takes about 1 ms for each 100 MiB of small pages, so it is read for at most
0.05 % of the time, and by processes without an endpoint for 0.001 % and only below 1 GiB. No scrape but the first waits
for it: the endpoint reads it when it has answered. Where `statm`, as of older kernels, was
found to be off by more than 1 % and a MiB, every look at the process reads it, for the total. Between two
readings the last one is shown; a state that was never read has no series. `hakmem_cgroup_memory_bytes` is asked each time the
kernel's part is: of the process's cgroup and those above it (version 1 or 2) the one with the least room below its limit.
Where none has a limit, `limit` and `distance` have no series.

Residency of hakmem's memory is asked by `mincore`, that of everything else by `/proc/self/pagemap`, and all of it by
that where a filter of system calls is installed, which may lack `mincore`, as systemd's `@system-service` does. No part is a
difference from the total. Both are read within the same walk but not at one instant: a program that allocates
meanwhile leaves a small unexplained rest of either sign. Of the superslabs those are asked again whose units
changed hands or that had blocks carved since the last walk, and 256 MiB of the others in turn: pages that a program
touches long after it allocated them, or that the kernel swaps out, show after four times as many walks as the heap has GiB
at the latest. In a process without an endpoint the kernel's part is left out where it costs more than a
millisecond; `outside`, the total and the rest then have no series.

**The exporter in its own figures.** `hakmem_exporter_memory_bytes` of an embedded endpoint is the part `telemetry`: stats
page and profile, the serving thread's stack, the module with its libraries, and the heap that this thread has
for itself, where series stand while a scrape is answered: some 400 KiB after it. A scrape of 720 series makes 2,000
allocations; no figure of the program's heap, threads, locks or kernel calls moves with them, while that heap has room
(architecture.md). What the module's libraries are to the
program, too, such as the C++ runtime of a C++ program, is in `outside`.

**Forked children** start from zero. Objects they inherited count as live, as they are; `hakmem_collected_objects_total`
can therefore exceed `hakmem_refill_objects_total` there.
"""


def fail(message):
    sys.exit(f"metrics_reference.py: {message}")


def label_values():
    """The arrays of label values in catalogue.h, by name."""
    text = HEADER.read_text(encoding="utf-8")
    values = {name: re.findall(r'"([^"]*)"', values)
              for name, values in re.findall(r"constexpr std::array (\w+)\{(.*?)\};", text, flags=re.S)}
    findings = re.findall(r'^HAKMEM_FINDING\(k\w+, "(\w+)"', FINDINGS.read_text(encoding="utf-8"), flags=re.M)
    return values | {"kFindings": findings}


def label_text(label_set, values):
    if label_set not in LABELS:
        fail(f"the label set {label_set} is not known here")
    texts = []
    for name, array in LABELS[label_set]:
        if array and array not in values:
            fail(f"{HEADER.name} has no {array}")
        texts.append(f"`{name}`" + (": " + ", ".join(f"`{value}`" for value in values[array]) if array else ""))
    return "; ".join(texts)


def unit(name):
    for ending, text in (("_seconds_total", "seconds"), ("_seconds", "seconds"), ("_bytes_total", "bytes"),
                         ("_bytes", "bytes"), ("_ratio", "0 to 1")):
        if name.endswith(ending):
            return text
    return ""


def reference():
    values = label_values()
    lines = [INTRODUCTION]
    section = None
    found = 0
    text = CATALOGUE.read_text(encoding="utf-8")
    for line in text.splitlines():
        if match := SECTION.match(line):
            section = match.group(1)
            lines.append(f"\n## {section[0].upper()}{section[1:]}\n")
            lines.append("| metric | type | unit | labels | help |\n| --- | --- | --- | --- | --- |")
        elif match := ROW.match(line):
            _, kind, _, labels, name, text_help = match.groups()
            found += 1
            cells = (f"`{name}`", kind.lower(), unit(name), label_text(labels, values), text_help.replace("|", "\\|"))
            lines.append("| " + " | ".join(cells) + " |")
        elif line.startswith("HAKMEM_METRIC("):
            fail(f"cannot read this row of {CATALOGUE.name}: {line}")
    if not found:
        fail(f"{CATALOGUE.name} has no rows")
    return "\n".join(lines).rstrip() + "\n"


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        fail("the only argument is --check")
    text = reference()
    if not sys.argv[1:]:
        OUTPUT.write_text(text, encoding="utf-8")
        return
    if not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
        fail(f"{OUTPUT.relative_to(ROOT)} is stale: run docs/metrics_reference.py")


if __name__ == "__main__":
    main()
