"""The account at the end of the demo: where the memory is, in words and figures."""

PARTS = ("live", "internal_fragmentation", "thread_cache", "slab_free", "empty_slab", "retained", "metadata",
         "telemetry", "outside")
MEANING = {
    "live": "held by the program, as requested",
    "internal_fragmentation": "allocated beyond what was requested",
    "thread_cache": "waits in thread caches",
    "slab_free": "free in slabs that hold something",
    "empty_slab": "slabs that hold nothing",
    "retained": "free, not given back to the kernel",
    "metadata": "hakmem's own bookkeeping",
    "telemetry": "stats page, sampler, exporter",
    "outside": "program text, stacks, other mappings",
}


def bytes_text(value):
    """A size as an engineer reads it; the sign stays."""
    size = abs(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    digits = 0 if unit == "B" else 1
    return f"{'-' if value < 0 else ''}{size:.{digits}f} {unit}"


def seconds_text(value):
    """A duration with three digits."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")):
        if value * factor >= 1 or unit == "ns":
            return f"{value * factor:.3g} {unit}"
    return "0 s"


def share_text(part, whole):
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"


def fragmentation(scrape, kind):
    return scrape.total("hakmem_fragmentation_ratio", kind=kind)


def progress_line(seconds, phase, scrape):
    """One line of live progress."""
    return (f"{seconds:4.0f} s  {phase:<9}"
            f" resident {bytes_text(scrape.total('hakmem_process_resident_bytes')):>10}"
            f"  live {bytes_text(scrape.total('hakmem_live_bytes')):>10}"
            f"  external {100 * fragmentation(scrape, 'external'):5.1f} %"
            f"  internal {100 * fragmentation(scrape, 'internal'):5.1f} %"
            f"  retained {bytes_text(scrape.total('hakmem_resident_bytes', part='retained')):>10}"
            f"  purged {bytes_text(scrape.total('hakmem_purged_bytes_total')):>10}")


def resident(scrape):
    """What resident memory consists of."""
    total = scrape.total("hakmem_process_resident_bytes")
    parts = scrape.by("hakmem_resident_bytes", "part")
    lines = [f"Resident memory: {bytes_text(total)} by the kernel's figure. It consists of",
             f"  {'part':<24}{'bytes':>12}{'share':>9}"]
    for part in [*PARTS, *(part for part in parts if part not in PARTS)]:
        value = parts.get(part, 0.0)
        lines.append(f"  {part:<24}{bytes_text(value):>12}{share_text(value, total):>9}  {MEANING.get(part, '')}".rstrip())
    unexplained = scrape.total("hakmem_resident_unexplained_bytes")
    share = f"{100 * unexplained / total:.1f} %" if total else "-"
    lines.append(f"  {'unexplained':<24}{bytes_text(unexplained):>12}{share:>9}  no part explains it")
    return lines


def before_and_after(moments):
    """Fragmentation at the named moments: a list of (name, Scrape)."""
    def row(title, cell):
        return f"  {title:<24}" + "".join(f"{cell(scrape):>14}" for _, scrape in moments)

    return ["Fragmentation before and after",
            f"  {'':<24}" + "".join(f"{name:>14}" for name, _ in moments),
            row("resident", lambda s: bytes_text(s.total("hakmem_process_resident_bytes"))),
            row("live", lambda s: bytes_text(s.total("hakmem_live_bytes"))),
            row("external", lambda s: bytes_text(s.total("hakmem_fragmentation_bytes", kind="external"))),
            row("  of the heap", lambda s: f"{100 * fragmentation(s, 'external'):.1f} %"),
            row("internal", lambda s: bytes_text(s.total("hakmem_fragmentation_bytes", kind="internal"))),
            row("  of the allocated", lambda s: f"{100 * fragmentation(s, 'internal'):.1f} %"),
            row("purged so far", lambda s: bytes_text(s.total("hakmem_purged_bytes_total")))]


def refills(scrape):
    """Refills of thread caches by source."""
    counts = scrape.by("hakmem_refills_total", "source")
    objects = scrape.by("hakmem_refill_objects_total", "source")
    total = sum(counts.values())
    lines = [f"Refills of thread caches: {total:,.0f}",
             f"  {'source':<24}{'refills':>12}{'share':>9}{'objects':>14}{'a refill':>10}"]
    for source, count in sorted(counts.items(), key=lambda item: -item[1]):
        batch = f"{objects.get(source, 0) / count:.1f}" if count else "-"
        lines.append(f"  {source:<24}{count:>12,.0f}{share_text(count, total):>9}{objects.get(source, 0):>14,.0f}{batch:>10}")
    return lines


def superslab_refill(scrape, seconds):
    """What new slabs cost, by step."""
    times = scrape.by("hakmem_superslab_refill_seconds_sum", "step")
    counts = scrape.by("hakmem_superslab_refill_seconds_count", "step")
    total = sum(times.values())
    cpu = scrape.total("hakmem_process_cpu_seconds_total")
    lines = [f"superslab_refill: {seconds_text(total)} in {seconds:.0f} s, {share_text(total, cpu)} of the CPU time",
             f"  {'step':<24}{'time':>12}{'share':>9}{'times':>14}{'mean':>10}"]
    for step, value in times.items():
        count = counts.get(step, 0)
        mean = seconds_text(value / count) if count else "-"
        lines.append(f"  {step:<24}{seconds_text(value):>12}{share_text(value, total):>9}{count:>14,.0f}{mean:>10}")
    return lines


def wasteful_classes(scrape, number=5):
    """The size classes that lose most to fragmentation, internal and external together."""
    external = scrape.by("hakmem_size_class_fragmentation_bytes", "size_class", kind="external")
    internal = scrape.by("hakmem_size_class_fragmentation_bytes", "size_class", kind="internal")
    live = scrape.by("hakmem_live_bytes", "size_class")
    occupancy = scrape.by("hakmem_slab_occupancy_ratio", "size_class")
    wasted = {name: external.get(name, 0) + internal.get(name, 0) for name in {**external, **internal}}
    worst = sorted(wasted, key=lambda name: -wasted[name])[:number]
    lines = [f"The {len(worst)} most wasteful size classes",
             f"  {'size class':<24}{'lost':>12}{'external':>12}{'internal':>12}{'live':>12}{'occupancy':>11}"]
    for name in worst:
        full = f"{100 * occupancy[name]:.0f} %" if name in occupancy else "-"
        lines.append(f"  {name:<24}{bytes_text(wasted[name]):>12}{bytes_text(external.get(name, 0)):>12}"
                     f"{bytes_text(internal.get(name, 0)):>12}{bytes_text(live.get(name, 0)):>12}{full:>11}")
    if "other" in worst:
        lines.append("  (other: all size classes that have no row of their own)")
    return lines


def findings(moments):
    """Which documented conditions held at the named moments."""
    lines = ["Findings (docs/diagnosis.md says what each means and what to change)"]
    for name, scrape in moments:
        held = [finding for finding, value in scrape.by("hakmem_diagnosis", "finding").items() if value == 1]
        lines.append(f"  {name:<24}{', '.join(held) or 'none'}")
    return lines


def peak(scrape):
    """What was needed when most was live."""
    live = scrape.total("hakmem_peak_bytes", kind="live")
    heap = scrape.total("hakmem_peak_bytes", kind="heap_resident")
    return [f"At the peak {bytes_text(live)} were live in a heap of {bytes_text(heap)}: realized fragmentation"
            f" {100 * scrape.total('hakmem_realized_fragmentation_ratio'):.1f} %"]


def purging(scrape):
    runs = scrape.total("hakmem_purge_runs_total")
    return [f"Purging: {runs:,.0f} runs gave back {bytes_text(scrape.total('hakmem_purged_bytes_total'))}"
            f" in {seconds_text(scrape.total('hakmem_purge_seconds_total'))};"
            f" {bytes_text(scrape.total('hakmem_purge_hold_back_bytes'))} may be held back,"
            f" {bytes_text(scrape.total('hakmem_purge_backlog_bytes'))} more wait to be purged"]
