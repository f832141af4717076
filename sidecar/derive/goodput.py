"""Where the time went: one exclusive state for every nanosecond of a rank.

Given: a rank's events on its own monotonic clock. Hands on: a ledger whose states sum to elapsed time.
Never: counts a moment twice, or guesses: time that nothing explains is ``unknown``.

States: init (until the first step of a process), step_productive, data_wait, evaluation, checkpoint, sampling,
compile, redone (steps repeated after a restart), stalled (a step's time beyond the stall limit), down (no process),
unknown (other phases, and what follows the last step).
"""

from sidecar.derive import stalls, throughput
from sidecar.state import RankState, RunState

STATES = {
    "evaluation": "evaluation", "eval": "evaluation", "validation": "evaluation",
    "checkpoint": "checkpoint", "save": "checkpoint",
    "sampling": "sampling", "generation": "sampling",
    "compile": "compile", "compilation": "compile",
    "data_wait": "data_wait", "init": "init",
}


def tick(rank: RankState, mono_ns: int) -> None:
    """Time since the last tick belongs to whatever the step in progress will turn out to be."""
    if mono_ns > rank.clock_mono_ns:
        rank.open_ns += mono_ns - rank.clock_mono_ns
        rank.clock_mono_ns = mono_ns


def leave_phase(rank: RankState, name: str, mono_ns: int) -> None:
    """Charges the time since the phase was entered."""
    if mono_ns > rank.clock_mono_ns:
        state = STATES.get(name, "unknown")
        setattr(rank.ledger, state, getattr(rank.ledger, state) + mono_ns - rank.clock_mono_ns)
        rank.clock_mono_ns = mono_ns


def end_step(state: RunState, rank: RankState, mono_ns: int, phases: dict[str, float], step: int) -> int:
    """Charges what lies since the last step end, without pauses. Returns this step's own time, nanoseconds."""
    open_ns = rank.open_ns
    if mono_ns > rank.clock_mono_ns:
        open_ns += mono_ns - rank.clock_mono_ns
        rank.clock_mono_ns = mono_ns
    rank.open_ns = 0
    ledger = rank.ledger
    if rank.reached < 0:
        own_ns = _first_step(state, open_ns, phases)
        ledger.init += open_ns - own_ns
        open_ns = own_ns
    rest_ns = open_ns
    if phases:
        wait = phases.get("data_wait")
        if wait is not None and 0 < wait < 1e9:
            wait_ns = min(rest_ns, int(wait * 1e9))
            ledger.data_wait += wait_ns
            rest_ns -= wait_ns
    if rest_ns > stalls.LIMIT_MIN_NS:
        slow_seconds = stalls.slow_step_seconds(throughput.step_seconds(state.window))
        excess_ns = rest_ns - int(stalls.limit_seconds(state, slow_seconds) * 1e9)
        if excess_ns > 0:
            ledger.stalled += excess_ns
            rest_ns -= excess_ns
            open_ns -= excess_ns
    if step <= rank.reached_before:
        ledger.redone += rest_ns
    else:
        ledger.step_productive += rest_ns
    return open_ns


def _first_step(state: RunState, open_ns: int, phases: dict[str, float]) -> int:
    """Duration of a process' first step, which has no step end before it: from its phases, or from earlier steps."""
    known = sum(seconds for seconds in phases.values() if 0 < seconds < 1e9)
    return min(open_ns, int(known * 1e9) or state.typical_step_ns)


def ledger_seconds(rank: RankState) -> dict[str, float]:
    """All states so far, without the step in progress and the time after the last record."""
    ledger = rank.ledger
    return {name: getattr(ledger, name) / 1e9 for name in ledger.__struct_fields__}
