"""When to try again: exponential with full jitter, capped.

Given: how often it failed in a row, and a source of randomness. Hands on: seconds to wait.
Never: sleeps.
"""

from collections.abc import Callable

FIRST_SECONDS = 0.5
CAP_SECONDS = 60.0


def delay_seconds(failures: int, random: Callable[[], float]) -> float:
    """Uniform in (0, min(cap, first * 2**(failures - 1))]: full jitter, so that many sinks do not return at once.

    ``random`` gives floats in [0, 1), like random.random.
    """
    exponent = min(max(failures, 1) - 1, 16)
    return min(CAP_SECONDS, FIRST_SECONDS * 2.0**exponent) * (1.0 - random())
