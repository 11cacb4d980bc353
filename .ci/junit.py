#!/usr/bin/env python3
"""Read a report of `ctest --output-junit`: print "passed failed skipped", write what failed to a file."""

import sys
import xml.etree.ElementTree

SHOWN_LINES = 40  # of the output of each failed test


def main():
    report, failures = sys.argv[1:]
    passed = skipped = 0
    failed = []
    for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
        status = case.get("status")
        if status == "run":
            passed += 1
        elif status in ("notrun", "disabled") and case.find("failure") is None:
            skipped += 1
        else:
            failed.append((case.get("name"), case.findtext("system-out") or ""))
    with open(failures, "w", encoding="utf-8") as file:
        for name, output in failed:
            lines = output.rstrip().splitlines()
            file.write(f"{name}\n")
            file.writelines(f"  {line}\n" for line in lines[-SHOWN_LINES:])
    print(passed, len(failed), skipped)


if __name__ == "__main__":
    main()
