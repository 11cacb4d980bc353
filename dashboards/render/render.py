#!/usr/bin/env python3
"""Draws the dashboard from a real Prometheus into a picture, with @grafana/ui and chromium.

    npm ci --legacy-peer-deps --prefix dashboards/render      (once; 400 MB)
    ./run demo --keep                                         (in another terminal)
    python3 dashboards/render/render.py --prometheus http://127.0.0.1:9090
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "dashboards", "demo"))

from processes import http_get  # noqa: E402

DASHBOARD = os.path.join(ROOT, "dashboards", "generated", "hakmem-fragmentation.json")
PICTURE = os.path.join(ROOT, "docs", "images", "fragmentation.png")
WIDTH = 1600
CELL = 38     # Grafana's 30 pixels of a cell and 8 between two
HEADER = 64


def query(prometheus, expression, start, end, step):
    parameters = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
    answer = json.loads(http_get(f"{prometheus}/api/v1/query_range?{parameters}", timeout=30))
    return answer["data"]["result"]


def fold(dashboard, open_rows):
    """Folds every row but those of these titles, as a reader would by a click."""
    panels, row = [], None
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            row = panel if panel["title"] not in open_rows else None
            panels.append(panel)
            if row is not None:
                row["collapsed"] = True
        elif row is not None:
            row["panels"].append(panel)
        else:
            panels.append(panel)
    dashboard["panels"] = panels


def visible_panels(dashboard):
    """The panels that a reader sees before unfolding anything."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def answers_of(prometheus, dashboard, start, end, step):
    """By the id of the panel, the result of each of its queries."""
    answers = {}
    for panel in visible_panels(dashboard):
        answers[panel["id"]] = []
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5s").replace("$job", ".+").replace("$instance", ".+")
            result = query(prometheus, expression, start, end, step)
            if not result:
                sys.exit(f"render: no data for panel \"{panel['title']}\": {expression}")
            answers[panel["id"]].append(result)
    return answers


def height_of(dashboard):
    """Pixels of the open rows and the bars of the folded ones."""
    end = max(panel["gridPos"]["y"] + panel["gridPos"]["h"]
              for each in dashboard["panels"] for panel in [each, *each.get("panels", [])])
    hidden = sum(max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in row["panels"]) - row["gridPos"]["y"] - 1
                 for row in dashboard["panels"] if row.get("collapsed"))
    return HEADER + (end - hidden) * CELL


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--seconds", type=float, default=60.0, help="how much of the past to show")
    parser.add_argument("--until", type=float, default=0.0, help="end of what is shown, as a time stamp (default: now)")
    parser.add_argument("--rows", nargs="*", default=["Where the memory is", "By size class"],
                        help="titles of the rows that are open in the picture")
    parser.add_argument("--output", default=PICTURE)
    options = parser.parse_args()

    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    fold(dashboard, options.rows)
    end = options.until or time.time()
    start = end - options.seconds
    step = max(1, round(options.seconds / 250))
    data = {"dashboard": dashboard, "start": start, "end": end,
            "answers": answers_of(options.prometheus, dashboard, start, end, step)}

    with tempfile.TemporaryDirectory(prefix="hakmem-render-") as folder:
        bundle = os.path.join(folder, "page.js")
        subprocess.run([os.path.join(HERE, "node_modules", ".bin", "esbuild"), "page.jsx", "--bundle",
                        f"--outfile={bundle}", "--log-level=error", "--loader:.svg=dataurl", "--loader:.png=dataurl", "--loader:.ttf=empty",
                        '--define:process.env.NODE_ENV="production"', "--define:global=window"],
                       cwd=HERE, check=True)
        page = os.path.join(folder, "page.html")
        with open(page, "w", encoding="utf-8") as file:
            file.write("<!doctype html><meta charset=utf-8><link rel=stylesheet href=page.css><body style='margin:0'><div id=root></div>"
                       f"<script>window.HAKMEM_PICTURE = {json.dumps(data)};</script><script src=page.js></script>")
        subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-lcd-text",
                        f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{height_of(dashboard)}",
                        "--virtual-time-budget=8000", f"--screenshot={options.output}", f"file://{page}"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"{options.output}: {os.path.getsize(options.output) // 1024} KiB")


if __name__ == "__main__":
    main()
