#!/usr/bin/env python3
"""Every metric of the catalogue is counted, published or served somewhere, and every finding has its paragraph.

    catalogue_test.py SOURCE_FOLDER
"""

import pathlib
import re
import sys

# Storage -> the calls that write such a metric, and where they may stand.
WRITERS = {
    "Shard": (r"\b(?:count|add|observe_time|add_time)<(?:hakmem::)?(?:metrics::)?(?:Metric::)?{name}>", ["allocator", "telemetry"]),
    "Publish": (r"\bstore(?:_counter)?<Metric::{name}>", ["telemetry"]),
    "Serve": (r"\badd(?:_served)?\(\s*(?:metrics::)?Metric::{name}\b", ["exporter"]),
}


def main():
    root = pathlib.Path(sys.argv[1])
    rows = re.findall(r"^HAKMEM_METRIC\((k\w+), (\w+), (\w+), ", (root / "allocator/metrics/catalogue.def").read_text(),
                      flags=re.M)
    assert rows, "the catalogue has no rows"
    text = {folder: "\n".join(path.read_text() for path in sorted((root / folder).rglob("*"))
                              if path.suffix in (".h", ".cc", ".cpp"))
            for folder in ("allocator", "telemetry", "exporter")}
    missing = []
    for name, _, storage in rows:
        pattern, folders = WRITERS[storage]
        if not any(re.search(pattern.format(name=name), text[folder]) for folder in folders):
            missing.append(f"{name} ({storage}) is never written in {', '.join(folders)}/")
    findings = re.findall(r'^HAKMEM_FINDING\(k\w+, "(\w+)"', (root / "allocator/metrics/findings.def").read_text(), flags=re.M)
    headings = re.findall(r"^## (\w+)$", (root / "docs/diagnosis.md").read_text(), flags=re.M)
    if not findings or findings != headings:
        missing.append(f"docs/diagnosis.md has the headings {headings}, the findings are {findings}")
    print("\n".join(missing) or f"{len(rows)} metrics are written")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
