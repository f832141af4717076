"""Statistics of paired measurements: how much slower "with" is than "without", and how sure that is.

Given: durations of short blocks that alternate, in an order drawn at random, between "with" and "without".
Hands on: the growth in percent with bounds of 95 % confidence, and what that says about a target.
Never: decides where the bounds do not.

Neighbours share whatever the machine is doing at that moment, so only neighbours are compared. The order within each
pair is random, which is all that the signed-rank bounds assume: drift of the machine does not invalidate them.
"""

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Z_95 = 1.959964
CAP = 1.1
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


class Block(NamedTuple):
    """Consecutive steps of one kind."""

    has_calls: bool
    values: Sequence[float]


def capped_mean(values: Sequence[float]) -> float:
    """The mean, no value counted for more than a tenth above their median.

    What other programs do to a step is mostly more than that; a median would also hide what is done to a minority of
    the steps by the work that is measured.
    """
    cap = CAP * statistics.median(values)
    return statistics.fmean(min(value, cap) for value in values)


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


def mean_growth(ratios: Sequence[float]) -> Growth:
    """The mean instead: what is rare and dear counts in full, and so does every disturbance. Bounds: normal."""
    mean = statistics.fmean(ratios)
    error = Z_95 * statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) >= PAIRS_MIN else math.inf
    return Growth(100 * (mean - 1), 100 * (mean - error - 1), 100 * (mean + error - 1))


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def pair_ratios(blocks: Sequence[Block], of_block: Callable[[Sequence[float]], float]) -> list[float]:
    """With / without of each pair of blocks, first and second, third and fourth, and so on."""
    return [
        of_block(a.values) / of_block(b.values) if a.has_calls else of_block(b.values) / of_block(a.values)
        for a, b in zip(blocks[::2], blocks[1::2], strict=False)
        if a.has_calls != b.has_calls
    ]


def noise_ratios(blocks: Sequence[Block], of_block: Callable[[Sequence[float]], float]) -> list[float]:
    """The same for neighbours that differ in nothing: the second of a pair and the first of the next, where alike."""
    rng = random.Random(len(blocks))
    alike = [(a, b) for a, b in zip(blocks[1::2], blocks[2::2], strict=False) if a.has_calls == b.has_calls]
    shuffled = (rng.sample(pair, 2) for pair in alike)
    return [of_block(a.values) / of_block(b.values) for a, b in shuffled]


def alternation(seed: int) -> Iterator[bool]:
    """With or without, block after block: pairs of both, each in an order drawn at random."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample((True, False), 2)


def decision(found: Growth, target_percent: float) -> str:
    """ "ok" or "MISS" if the bounds lie on one side of the target, else "undecided"."""
    if found.high <= target_percent:
        return "ok"
    return "MISS" if found.low > target_percent else "undecided"


def print_decision(name: str, found: Growth, target_percent: float) -> None:
    verdict = decision(found, target_percent)
    print(f"{verdict:4} {name}: {found.percent:+.2f} % (target <= {target_percent:g} %), "
          f"95 % bounds {found.low:+.2f} .. {found.high:+.2f} %", flush=True)  # fmt: skip
