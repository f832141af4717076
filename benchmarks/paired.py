"""Statistics of paired measurements: how much slower "with" is than "without", and how sure that is.

Given: durations of short blocks that alternate, in an order drawn at random, between "with" and "without".
Hands on: the growth in percent with bounds of 95 % confidence, and what that says about a target.
Never: decides where the bounds do not.

Neighbours share whatever the machine is doing at that moment, so only neighbours are compared. The order within each
pair is random, which is all that the signed-rank bounds assume: drift of the machine does not invalidate them.
"""

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sidecar.growth import PAIRS_MIN, Z_95, Growth, growth

CAP = 1.1


class Block(NamedTuple):
    """Consecutive steps of one kind."""

    is_monitored: bool
    values: Sequence[float]


def capped_mean(values: Sequence[float]) -> float:
    """The mean, no value counted for more than a tenth above their median.

    What other programs do to a step is mostly more than that; a median would also hide what is done to a minority of
    the steps by the work that is measured.
    """
    cap = CAP * statistics.median(values)
    return statistics.fmean(min(value, cap) for value in values)


def mean_growth(ratios: Sequence[float]) -> Growth:
    """The mean instead: what is rare and dear counts in full, and so does every disturbance. Bounds: normal."""
    mean = statistics.fmean(ratios)
    error = Z_95 * statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) >= PAIRS_MIN else math.inf
    return Growth(100 * (mean - 1), 100 * (mean - error - 1), 100 * (mean + error - 1))


def pair_ratios(blocks: Sequence[Block], of_block: Callable[[Sequence[float]], float]) -> list[float]:
    """With / without of each pair of blocks, first and second, third and fourth, and so on."""
    return [
        of_block(a.values) / of_block(b.values) if a.is_monitored else of_block(b.values) / of_block(a.values)
        for a, b in zip(blocks[::2], blocks[1::2], strict=False)
        if a.is_monitored != b.is_monitored
    ]


def noise_ratios(blocks: Sequence[Block], of_block: Callable[[Sequence[float]], float]) -> list[float]:
    """The same for neighbours that differ in nothing: the second of a pair and the first of the next, where alike."""
    rng = random.Random(len(blocks))
    alike = [(a, b) for a, b in zip(blocks[1::2], blocks[2::2], strict=False) if a.is_monitored == b.is_monitored]
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


__all__ = ["Block", "Growth", "alternation", "capped_mean", "decision", "growth", "mean_growth", "noise_ratios",
           "pair_ratios", "print_decision"]
