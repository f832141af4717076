"""The latest value of every name that was logged.

Given: the metrics of a record and its rank. Hands on: one value a name; of names that several ranks send, the lowest
rank's. Never: keeps more than 10,000 names, or a list, a map or a long text.
"""

from typing import Any

from sidecar import wire
from sidecar.state import LIVE, NAMES_MAX, TEXT_CHARS_MAX, RankState, RunState, count

SCALARS = frozenset((int, float, bool, type(None)))


def merge_recent(state: RunState) -> None:
    if state.recent_at is not None:
        step, time_ns, rank = state.recent_at
        state.recent_at = None
        remember(state, state.ranks[rank], state.recent, step, time_ns)


def remember(state: RunState, rank: RankState, metrics: dict[str, Any], step: int | None, time_ns: int) -> None:
    """Keeps the latest value of every name; of names that several ranks send, the lowest rank's."""
    latest = state.latest
    stamp = (step, time_ns, rank.rank)
    if rank.rank == state.lead and metrics.keys() <= latest.keys() and SCALARS.issuperset(map(type, metrics.values())):
        latest.update(metrics)
        state.latest_at.update(dict.fromkeys(metrics, stamp))
        return
    latest_at = state.latest_at
    for name, value in metrics.items():
        at = latest_at.get(name)
        if at is None:
            if len(name) > wire.NAME_BYTES_MAX or len(name.encode()) > wire.NAME_BYTES_MAX:
                count(state, "name_too_long")
                continue
            if len(latest) >= NAMES_MAX:
                count(state, "names_over_limit")
                continue
        elif at[2] < rank.rank and state.ranks[at[2]].state in LIVE:
            continue
        if not shown(value):
            continue
        latest[name] = value
        latest_at[name] = stamp


def shown(value: Any) -> bool:
    """Whether a value is kept: numbers and short texts. Lists and maps are only in the rows."""
    return type(value) in SCALARS or (type(value) is str and len(value) <= TEXT_CHARS_MAX)


def latest_of(state: RunState) -> tuple[dict[str, Any], dict[str, tuple[int | None, int, int]]]:
    """Values and their (step, time_ns, rank) by name, the lead rank's last step included. Changes nothing."""
    if state.recent_at is None:
        return state.latest, state.latest_at
    recent = {name: v for name, v in state.recent.items() if name in state.latest and shown(v)}
    return {**state.latest, **recent}, {**state.latest_at, **dict.fromkeys(recent, state.recent_at)}
