"""The one exception of the benchmark scripts: its text is what the user reads."""


class BenchError(Exception):
    pass
