"""The exceptions of the benchmark scripts: their text is what the user reads."""


class BenchError(Exception):
    pass


class KilledError(BenchError):
    """The program was ended by a signal."""
