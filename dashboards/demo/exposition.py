"""Prometheus' text format, as far as /metrics uses it."""

import re

_SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scrape:
    """The samples of one scrape: name -> list of (labels, value)."""

    def __init__(self):
        self.samples = {}
        self.types = {}

    def rows(self, name, **labels):
        """Samples of a series name that have these labels."""
        return [(have, value) for have, value in self.samples.get(name, [])
                if all(have.get(key) == want for key, want in labels.items())]

    def total(self, name, **labels):
        """Sum over the samples that have these labels; 0 when there is none."""
        return sum(value for _, value in self.rows(name, **labels))

    def by(self, name, label, **labels):
        """Sums by the values of one label, in order of appearance."""
        sums = {}
        for have, value in self.rows(name, **labels):
            key = have.get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums


def parse(text):
    """Reads a scrape; ValueError on a line that is not of the format."""
    scrape = Scrape()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            scrape.types[name] = kind
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.match(line)
        if not match:
            raise ValueError(f"not a sample: {line}")
        name, labels, value = match.groups()
        scrape.samples.setdefault(name, []).append((dict(_LABEL.findall(labels or "")), float(value)))
    return scrape
