"""Whether a series of measurements stays flat: the slope through the medians of windows of time."""

import math
import statistics

WARM_UP = 0.25  # of the time; what a program needs for its first steps is no growth
WINDOWS = 12
FEWEST_PER_WINDOW = 2


class Flatness:
    """What became of one series, in bytes: its level, its growth over the time judged, how far from it noise may have
    taken that figure (two standard errors), and how much is allowed."""

    def __init__(self, looks, allowed_bytes, allowed_share):
        """`looks` are (second, bytes), in the order of time."""
        medians = windows(looks)
        seconds = medians[-1][0] - medians[0][0]
        by_second = slope(medians)
        self.minutes = seconds / 60
        self.level = statistics.median(value for _, value in medians)
        self.growth = by_second * seconds
        rests = [value - by_second * second for second, value in medians]
        middle = statistics.median(rests)
        deviation = 1.48 * statistics.median(abs(rest - middle) for rest in rests)
        self.noise = 2 * deviation * math.sqrt(12 / len(medians))
        self.allowed = max(allowed_bytes, allowed_share * self.level)

    def is_flat(self):
        return self.growth <= self.allowed + self.noise

    def __str__(self):
        return (f"{self.level / 1024:9.0f} KiB, grew by {self.growth / 1024:8.1f} (noise {self.noise / 1024:.1f}) "
                f"in {self.minutes:.1f} minutes; {self.allowed / 1024:.0f} allowed")


def windows(looks):
    """(second, median) of each window; of what follows the warm-up."""
    start, end = looks[0][0], looks[-1][0]
    begin = start + WARM_UP * (end - start)
    judged = [look for look in looks if look[0] >= begin]
    count = min(WINDOWS, len(judged) // FEWEST_PER_WINDOW)
    if count < 3:
        raise ValueError(f"{len(looks)} measurements are too few")
    medians = []
    for number in range(count):
        part = judged[number * len(judged) // count:(number + 1) * len(judged) // count]
        medians.append((statistics.median(second for second, _ in part), statistics.median(value for _, value in part)))
    return medians


def slope(points):
    """The median of the slopes of all pairs (Theil and Sen): an outlier does not turn it."""
    return statistics.median((later[1] - earlier[1]) / (later[0] - earlier[0])
                             for index, earlier in enumerate(points) for later in points[index + 1:])
