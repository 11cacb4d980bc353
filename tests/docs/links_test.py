#!/usr/bin/env python3
"""Every relative link and picture in the documentation leads to a file of the tree, and every anchor to a heading."""

import pathlib
import re
import sys

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")


def anchors(path):
    """The anchors that a Markdown file's headings get."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def main():
    root = pathlib.Path(sys.argv[1])
    links, broken = 0, []
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        # Code is no link.
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
        for match in LINK.finditer(text):
            target = match.group(1) or match.group(2)
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            name, _, anchor = target.partition("#")
            file = (page.parent / name) if name else page
            if not file.exists():
                broken.append(f"{page.relative_to(root)}: {target} does not exist")
            elif anchor and anchor not in anchors(file):
                broken.append(f"{page.relative_to(root)}: {target} names no heading")
    for line in broken:
        print(line)
    if not links:
        print("no links found")
    return 1 if broken or not links else 0


if __name__ == "__main__":
    sys.exit(main())
