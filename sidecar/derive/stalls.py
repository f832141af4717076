"""How long a silence may last before it is a stall.

Given: the steps so far and the open phase. Hands on: a limit in seconds.
Never: believes a heartbeat: only steps count.
"""

from sidecar.derive import throughput
from sidecar.state import RankState, RunState

LIMIT_MIN_SECONDS = 60.0
LIMIT_MIN_NS = 60_000_000_000
P99_FACTOR = 5.0
PATIENCE_FACTOR = 5.0
"""Before the first step (loading, compiling) and inside evaluation or a checkpoint, silence is normal for longer."""


def limit_seconds(state: RunState, rank: RankState | None = None) -> float:
    """max(60 s, 5 x p99 of the step time), five times that before the first step or inside a phase."""
    p99 = throughput.percentile(sorted(throughput.step_seconds(state.window)), 0.99)
    limit = max(LIMIT_MIN_SECONDS, P99_FACTOR * (p99 or 0.0))
    if rank is not None and (rank.reached < 0 or rank.open_phases):
        limit *= PATIENCE_FACTOR
    return limit
