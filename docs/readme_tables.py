#!/usr/bin/env python3
"""Write the generated tables of README.md from their one source, or check that they are up to date.

    readme_tables.py           write the tables between their markers
    readme_tables.py --check   exit with 1 and a line for each table that is stale

A table stands between "<!-- table: NAME -->" and "<!-- end of table -->".
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STRING = r'"((?:[^"\\]|\\.)*)"'

VARIABLE_ROW = re.compile(
    rf"HAKMEM_VARIABLE\(\s*\w+\s*,\s*{STRING}\s*,\s*(\w+)\s*,\s*(\w+)\s*,\s*{STRING}\s*,\s*{STRING}\s*\)")
METRIC_ROW = re.compile(rf"HAKMEM_METRIC\(\s*\w+\s*,\s*(\w+)\s*,\s*\w+\s*,\s*\w+\s*,\s*{STRING}\s*,\s*{STRING}\s*\)")

FORMS = {"Address": "`HOST:PORT`", "Text": "a name of at most 15 characters", "Directory": "an absolute path",
         "File": "an absolute path", "Bytes": "a number of bytes", "OnError": "`abort` or `report`",
         "Switch": "0 or 1"}
READERS = {"Nothing": "all", "Telemetry": "telemetry", "Sampling": "telemetry, debug"}


def rows(path, macro, pattern):
    """The fields of each row of a .def file; a row that cannot be read stops the script."""
    text = (ROOT / path).read_text(encoding="utf-8")
    count = len(re.findall(rf"^{macro}\(", text, flags=re.M))
    found = [tuple(re.sub(r"\\(.)", r"\1", field) for field in match.groups()) for match in pattern.finditer(text)
             if not text[: match.start()].rpartition("\n")[2].lstrip().startswith("//")]
    if len(found) != count or not found:
        sys.exit(f"{path}: {count} rows, {len(found)} of them can be read")
    return found


def table(header, lines):
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for line in lines:
        yield "| " + " | ".join(field.replace("|", "\\|") for field in line) + " |"


def environment():
    lines = []
    for name, form, needs, default, text in rows("allocator/base/environment.def", "HAKMEM_VARIABLE", VARIABLE_ROW):
        lines.append((f"`{name}`", FORMS[form], f"`{default}`" if default else "not set", READERS[needs], text))
    return table(("Variable", "Value", "Default", "Read by", "What it does"), lines)


def metrics():
    return table(("Metric", "Kind", "What it tells"),
                 [(f"`{name}`", kind.lower(), text)
                  for kind, name, text in rows("allocator/metrics/catalogue.def", "HAKMEM_METRIC", METRIC_ROW)])


TABLES = {"environment": environment, "metrics": metrics}
MARKED = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", flags=re.S)


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    names = [match.group(2) for match in MARKED.finditer(old)]
    if sorted(names) != sorted(TABLES):
        sys.exit(f"README.md has the tables {names}, it needs {list(TABLES)} once each")
    new = MARKED.sub(lambda match: match[1] + "\n" + "\n".join(TABLES[match[2]]()) + "\n\n" + match[4], old)
    if not check:
        readme.write_text(new, encoding="utf-8")
        return 0
    stale = [before[2] for before, after in zip(MARKED.finditer(old), MARKED.finditer(new)) if before[3] != after[3]]
    for name in stale:
        print(f"README.md: the table '{name}' is stale; run docs/readme_tables.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
