"""The last seconds of a launch: has everything arrived where it should?

Given: a way to read the status, a limit. Hands on: the last status seen, or what the journal says.
Never: waits longer than the limit, or longer than there is something to wait for.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from sidecar.config import Config

POLL_SECONDS = 0.1
ENDED = frozenset({"finished", "failed", "lost"})
IDLE_SINKS = frozenset({"disabled", "paused"})
NOTHING_SECONDS = 0.5  # No status after this long: the command never called sidecar.init.
TOLD_SECONDS_MAX = 5.0  # A sidecar of an older version never takes the news.
FIRST_RECORDS_MAX = 2000

Status = Mapping[str, Any]


def wait(
    status: Callable[[], dict[str, Any]],
    grace_seconds: float,
    *,
    pause: Callable[[float], bool],
    serving: bool,
    told: Callable[[], bool] = lambda: True,
    lacking: Callable[[], Mapping[str, bool] | None] = lambda: None,
) -> dict[str, Any]:
    """Wait until the run has ended, its sinks have everything, and whoever scrapes /metrics has done so once more. A
    sink that has been failing for longer than ``grace_seconds`` is not waited for.

    ``pause`` sleeps, and returns True when the user asked to hurry. ``serving`` is False when the sidecar was not
    started by this launch and goes on: then the end of the run is enough. ``told``: does the sidecar know how the
    command ended, or need not? ``lacking``: which sinks lack rows of the runs to wait for, as ``sinks_of`` tells.
    """
    began = time.monotonic()
    last: dict[str, Any] = {}
    scrapes_at_end: int | None = None
    while True:
        now = status()
        last = now or last
        elapsed = time.monotonic() - began
        if not last and elapsed >= min(NOTHING_SECONDS, grace_seconds):
            return last
        if last.get("state") in ENDED:
            scrapes = scrapes_of(last)
            scrapes_at_end = scrapes if scrapes_at_end is None else scrapes_at_end
            scraped = not scrapes_at_end or scrapes > scrapes_at_end
            knows = told() or elapsed >= TOLD_SECONDS_MAX
            hopeful = without_vain(last, grace_seconds)
            if knows and (not serving or (scraped and (drained(hopeful) or drained(hopeful, lacking())))):
                return last
        if elapsed >= grace_seconds or pause(min(POLL_SECONDS, grace_seconds - elapsed)):
            return last


def drained(status: Status, lacking: Mapping[str, bool] | None = None) -> bool:
    """Every sink has all rows, or will not get any. Of one that has not started yet that is not known.

    The status tells of all runs at once, those of earlier days included. ``lacking`` are the sinks of the runs to wait
    for, and whether each lacks rows of these; without it any run is waited for.
    """
    sinks: Mapping[str, Any] = status.get("sinks") or {}
    return all(_has_all(sink) or (lacking is not None and _owes_only_others(sink, lacking.get(name)))
               for name, sink in sinks.items())  # fmt: skip


def without_vain(status: Status, patience_seconds: float) -> Status:
    """The same status without the sinks that fail, and have taken nothing for so long: they get one more attempt when
    the sidecar ends."""
    sinks: Mapping[str, Any] = status.get("sinks") or {}
    return {**status, "sinks": {name: sink for name, sink in sinks.items() if not _in_vain(sink, patience_seconds)}}


def _in_vain(sink: Mapping[str, Any], patience_seconds: float) -> bool:
    age = sink.get("last_success_age_seconds")
    return sink.get("state") == "failing" and (age is None or age > patience_seconds)


def _owes_only_others(sink: Mapping[str, Any], lacks: bool | None) -> bool:
    """``lacks``: whether it lacks rows of the runs to wait for; None: it is not one of theirs. A sink that has just
    taken the last of them may be shown as starting for a second longer, without its link."""
    return not lacks and (lacks is None or sink.get("state") != "starting")


def _has_all(sink: Mapping[str, Any]) -> bool:
    return sink.get("state") in IDLE_SINKS or (sink.get("state") != "starting" and sink.get("lag_events") == 0)


def sinks_of(directory: Path, journals: Mapping[str, Path]) -> dict[str, bool] | None:
    """The sinks of these runs (ids with their journals), and whether each lacks rows of one of them. None: that cannot
    be read at this moment."""
    from sidecar.journal_reader import JournalReader
    from sidecar.sinks.base import Unavailable
    from sidecar.sinks.cursors import Cursors

    found: dict[str, bool] = {}
    try:
        with closing(Cursors(directory / "cursors.sqlite")) as cursors:
            for run_id, journal in journals.items():
                with closing(JournalReader(journal)) as reader:
                    last_row = reader.last_row()
                for sink, cursor in cursors.of_run(run_id).items():
                    found[sink] = found.get(sink, False) or cursor.row < last_row
    except (Unavailable, OSError, sqlite3.Error):
        return None
    return found


def without_others(status: Status, configured: Iterable[str], own: Mapping[str, bool] | None) -> dict[str, Any]:
    """The same status without the sinks that are there only for what runs of earlier days owe them."""
    from sidecar.sinks.period import split

    sinks = status.get("sinks")
    if own is None or not sinks:
        return dict(status)
    named = {split(word)[0] for word in configured} | own.keys()
    kept = {name: sink for name, sink in sinks.items() if name in named or sink.get("state") == "disabled"}
    return {**status, "sinks": kept}


def scrapes_of(status: Status) -> int:
    return int((status.get("sidecar") or {}).get("scrapes_total") or 0)


def from_journal(config: Config, run_id: str) -> dict[str, Any]:
    """The status folded from the journal, for when the sidecar does not answer; empty when there is none.

    From the journal's last checkpoint on: about a second, however long the run was.
    """
    try:
        import msgspec

        from sidecar.derive.snapshot import snapshot
        from sidecar.follow import Follower
        from sidecar.store import Store

        with closing(Follower(Store(config.data_directory).path(run_id), run_id)) as follower:
            for _ in follower.read(follower.behind_rows()):
                pass
            return dict(msgspec.to_builtins(snapshot(follower.projector.state, now_ns=time.time_ns())))
    except Exception:  # noqa: BLE001  # The summary is a courtesy: the command's exit code must reach the shell.
        return {}


def first_loss(config: Config, run_id: str) -> float | None:
    """The first training loss in the journal."""
    try:
        from sidecar.export import open_run

        with open_run(config, run_id) as opened:
            for row in islice(opened.rows(derived=False), FIRST_RECORDS_MAX):
                loss = row.metrics.get("train/loss")
                if row.kind == "step" and isinstance(loss, (int, float)):
                    return float(loss)
    except Exception:  # noqa: BLE001  # As above.
        return None
    return None
