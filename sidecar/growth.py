"""How much longer something takes with than without, from pairs of neighbouring measurements.

Given: the ratio with / without of each pair, which of the two came first drawn at random.
Hands on: the growth in percent between bounds of 95 % confidence. Never: claims bounds from fewer than six pairs.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

Z_95 = 1.959964
PAIRS_MIN = 6
"""With fewer no choice of bounds has 95 % confidence: all pairs agree by chance in 1 of 2 ** (pairs - 1) cases."""


class Growth(NamedTuple):
    """How much longer it takes with than without, in percent, between 95 % bounds."""

    percent: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        return f"{self.percent:+6.2f} %  (95 %: {self.low:+.2f} .. {self.high:+.2f} %)"


def growth(ratios: Sequence[float]) -> Growth:
    """From the ratio with / without of each pair: the Hodges-Lehmann estimate and Wilcoxon's signed-rank bounds.

    Hodges and Lehmann 1963: the median of the means of all pairs of differences, here of logarithms. The bounds are
    infinite with fewer than six pairs. Raises StatisticsError when there are none.
    """
    logs = [math.log(ratio) for ratio in ratios]
    means = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(logs, 2))
    middle = _percent(statistics.median(means))
    n = len(logs)
    if n < PAIRS_MIN:
        return Growth(middle, -math.inf, math.inf)
    rank = int(n * (n + 1) / 4 - Z_95 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24))
    return Growth(middle, _percent(means[max(rank, 1) - 1]), _percent(means[-max(rank, 1)]))


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)
