"""How long a silence may last before the next step is overdue, and before it is a stall.

Given: the steps so far and the open phase. Hands on: limits in seconds.
Never: takes a heartbeat for progress: only steps, and the end of a declared phase, count.
"""

from sidecar.derive import throughput
from sidecar.state import RankState, RunState

LIMIT_MIN_SECONDS = 60.0
LIMIT_MIN_NS = 60_000_000_000
P99_FACTOR = 5.0
PATIENCE_FACTOR = 5.0
"""Before the second step (loading, compiling) and inside evaluation or a checkpoint, silence is normal for longer."""

OVERDUE_FACTOR = 5.0
OVERDUE_MIN_SECONDS = 5.0  # Steps of milliseconds arrive in batches.


def slow_step_seconds(durations: list[float]) -> float | None:
    """What counts as a slow step: the p99 of ``throughput.step_seconds``. None: no step's time is known."""
    return throughput.percentile(durations, 0.99)


def overdue_seconds(slow_seconds: float | None, rank: RankState) -> float | None:
    """Silence beyond this is longer than five slow steps, or five times what the open phase and a slow step took
    before. None: it is not known how long a step, or this phase, takes."""
    if slow_seconds is None:
        return None
    usual = slow_seconds
    if rank.open_phases:
        phase = rank.phases.get(rank.open_phases[0][0])
        if phase is None or phase.seconds_last is None:
            return None
        usual += phase.seconds_last
    return max(OVERDUE_MIN_SECONDS, OVERDUE_FACTOR * usual)


def limit_seconds(state: RunState, slow_seconds: float | None, rank: RankState | None = None) -> float:
    """max(60 s, 5 x p99 of the step time); five times that inside a phase, or while no step's time is known."""
    slow = slow_seconds
    if slow is None and state.typical_step_ns:  # A restarted trainer's first steps take as long as they did before.
        slow = state.typical_step_ns / 1e9
    limit = max(LIMIT_MIN_SECONDS, P99_FACTOR * (slow or 0.0))
    if slow is None or (rank is not None and (rank.reached < 0 or rank.open_phases)):
        limit *= PATIENCE_FACTOR
    return limit
