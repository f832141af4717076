"""Rates over a sliding window of step ends, and step-time percentiles.

Given: points on the lowest rank's monotonic clock. Hands on: rates per second, seconds.
Never: looks at a wall clock, or walks the window for each step (percentiles are computed when somebody looks).

The window holds the latest 128 step ends, or those of the last 60 s if that is fewer (at least 6): a rate is what
happened between the first and the last of them over the wall time between them, pauses included. A step's own
duration leaves declared pauses (evaluation, checkpoint, sampling) out.
"""

from itertools import pairwise

from sidecar.state import Window

POINTS_MAX = 128
SECONDS_MAX = 60
POINTS_MIN = 6

Point = tuple[int, int, int, int, float, int]


def push(window: Window, point: Point) -> Point:
    """Adds a point and returns the oldest one of the window. Amortised constant time."""
    at = window.at
    points = window.points
    if at < POINTS_MAX:
        points.append(point)
    else:
        points[at % POINTS_MAX] = point
    at += 1
    window.at = at
    oldest = window.oldest
    if at - oldest > POINTS_MAX:
        oldest = at - POINTS_MAX
    limit_ns = point[0] - SECONDS_MAX * 1_000_000_000
    while points[oldest % POINTS_MAX][0] < limit_ns and at - oldest > POINTS_MIN:
        oldest += 1
    window.oldest = oldest
    return points[oldest % POINTS_MAX]


def clear(window: Window, stream: tuple[int, int, int]) -> None:
    window.points = []
    window.at = window.oldest = 0
    window.stream = stream


def ends(window: Window) -> list[Point]:
    """The points of the window, oldest first."""
    return [window.points[i % POINTS_MAX] for i in range(window.oldest, window.at)]


def step_seconds(window: Window) -> list[float]:
    """Durations of the steps in the window, ascending, without declared pauses. Several steps between two points share
    evenly."""
    points = ends(window)
    durations = []
    for before, after in pairwise(points):
        steps = after[3] - before[3]
        if steps > 0:
            durations.append((after[5] - before[5]) / steps / 1e9)
    return sorted(durations)


def percentile(values_sorted: list[float], share: float) -> float | None:
    """Linear interpolation between closest ranks (the definition of numpy and statistics 'inclusive')."""
    if not values_sorted:
        return None
    position = (len(values_sorted) - 1) * share
    low = int(position)
    high = min(low + 1, len(values_sorted) - 1)
    return values_sorted[low] + (values_sorted[high] - values_sorted[low]) * (position - low)
