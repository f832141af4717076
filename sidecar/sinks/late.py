"""What `sidecar sink` and `sidecar sync` do: sinks bound late, paused, listed, and runs sent after the fact.

Given: a data directory and the configuration. Hands on: orders that a live sidecar takes up within a second, or,
where there is none, the delivery itself.
Never: touches a journal, or delivers beside a live sidecar.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.errors import Exit, UserError
from sidecar.journal_reader import JournalReader
from sidecar.sinks import registry, wandb_account, wandb_artifacts, wandb_log
from sidecar.sinks.base import Unavailable
from sidecar.sinks.cursors import Cursors, cannot_be_used
from sidecar.sinks.manager import SinkManager
from sidecar.store import RunEntry, Store
from sidecar.telemetry import SinkHealth, Telemetry

POLL_SECONDS = 0.1
Pair = tuple[str, str]
"""A run's id and a sink's name."""


class Binding(NamedTuple):
    """One run at one sink."""

    run_id: str
    sink: str
    delivered: int
    """Rows that the sink took."""
    lag_rows: int
    """Journal rows that it has not got."""
    paused: bool

    @property
    def state(self) -> str:
        return "paused" if self.paused else "behind" if self.lag_rows else "sent"


def run_of(store: Store, word: str) -> RunEntry:
    """Raises UserError (exit code 3) when there is no run of this id or name."""
    entry = store.find(word)
    if entry is None:
        known = ", ".join(run.run_id for run in store.runs()[:5])
        remedy = f"there are: {known}" if known else "name the directory the run was written to with --dir"
        raise UserError(f"no run {word!r} in {store.directory}", remedy, Exit.NO_DATA)
    return entry


def request(data_dir: Path, run_id: str, sink: str) -> bool:
    """Bind a sink to a run, whatever its state. False: it was bound already. Raises UnknownSink, SinkNotInstalled."""
    registry.load(sink)
    with _cursors(data_dir) as cursors:
        new = cursors.request(run_id, sink)
        cursors.pause(run_id, sink, False)
        cursors.order(run_id, sink)
        return new


def pause(data_dir: Path, run_id: str, sink: str, paused: bool = True) -> None:
    """A paused sink keeps its place. Raises UnknownSink, or UserError when the run was never bound to it."""
    registry.target_of(sink)
    with _cursors(data_dir) as cursors:
        bound = cursors.of_run(run_id)
        if sink not in bound:
            there = ", ".join(sorted(bound)) or "no sink"
            raise UserError(f"run {run_id} is not bound to {sink}, but to {there}", f"sidecar sink add {sink} {run_id}")
        cursors.pause(run_id, sink, paused)


def bindings(store: Store) -> list[Binding]:
    """Every run at every sink it was ever bound to, the newest run first."""
    found: list[Binding] = []
    with _cursors(store.directory) as cursors:
        for entry in store.runs():
            bound = cursors.of_run(entry.run_id)
            if not bound:
                continue
            try:
                with contextlib.closing(JournalReader(entry.path)) as reader:
                    last_row = reader.last_row()
            except sqlite3.Error:
                continue  # `sidecar runs` lists it as damaged.
            for sink, cursor in sorted(bound.items()):
                paused = cursors.paused(entry.run_id, sink)
                found.append(Binding(entry.run_id, sink, cursor.number, max(0, last_row - cursor.row), paused))
    return found


def unsent(store: Store) -> list[Binding]:
    """What has not been delivered, paused or not."""
    return [binding for binding in bindings(store) if binding.lag_rows]


def offline_logs(config: Any, run_id: str) -> list[Path]:
    """What wandb wrote for this run while it was offline, and nobody has sent since."""
    base = getattr(config, "wandb_dir", None) or os.environ.get("WANDB_DIR") or config.dir
    return wandb_log.unsent(base, wandb_account.run_id(run_id))


def files_waiting(config: Any, run_id: str) -> int:
    """Checkpoint files that are still to be sent to W&B."""
    return len(wandb_artifacts.waiting(Path(config.dir), wandb_account.run_id(run_id)))


def why_not_online(config: Any) -> str | None:
    """Why W&B would get nothing from here, in one line; None: it would."""
    choice = wandb_account.choose_mode({"mode": getattr(config, "wandb_mode", None)}, os.environ)
    return None if choice.mode == "online" else choice.reason


def deliver_now(
    config: Any,
    store: Store,
    wanted: Iterable[Pair],
    *,
    timeout_seconds: float,
    on_progress: Callable[[dict[Pair, SinkHealth]], None] = lambda health: None,
) -> dict[Pair, SinkHealth]:
    """Send these (run, sink) pairs here and now, from where each is. Only where no sidecar serves the directory:
    the caller holds the store's lock. Returns how each ended. Raises UnknownSink, SinkNotInstalled."""
    pairs = list(wanted)
    manager = SinkManager(config, store, Telemetry())
    deadline = time.monotonic() + timeout_seconds
    try:
        with explained(Path(config.dir)):
            for run_id, sink in pairs:
                manager.add(run_id, sink)
        while time.monotonic() < deadline:
            if manager.drained() and not any(sink == "wandb" and files_waiting(config, run) for run, sink in pairs):
                break
            on_progress(_health(manager, pairs))
            time.sleep(POLL_SECONDS)
    finally:
        manager.close(max(5.0, deadline - time.monotonic()))
    return _health(manager, pairs)


def wait_for(data_dir: Path, targets: dict[Pair, int], timeout_seconds: float) -> list[Pair]:
    """Wait until a live sidecar has delivered these up to these journal rows. Returns those it has not."""
    deadline = time.monotonic() + timeout_seconds
    with _cursors(data_dir) as cursors:
        while True:
            behind = [pair for pair, row in targets.items() if cursors.get(*pair).row < row]
            if not behind or time.monotonic() >= deadline:
                return behind
            time.sleep(POLL_SECONDS)


def last_row(entry: RunEntry) -> int:
    with contextlib.closing(JournalReader(entry.path)) as reader:
        return reader.last_row()


def _health(manager: SinkManager, pairs: list[Pair]) -> dict[Pair, SinkHealth]:
    return {pair: health for pair in pairs if (health := manager.health(*pair)) is not None}


@contextlib.contextmanager
def _cursors(data_dir: Path) -> Iterator[Cursors]:
    with explained(data_dir), contextlib.closing(Cursors(data_dir / "cursors.sqlite")) as cursors:
        yield cursors


@contextlib.contextmanager
def explained(data_dir: Path) -> Iterator[None]:
    """The file of cursors cannot be opened or written: a cause and a remedy instead of SQLite's error."""
    try:
        yield
    except Unavailable as error:
        reason = str(error)
    except sqlite3.Error as error:
        reason = cannot_be_used(data_dir / "cursors.sqlite", error)
    else:
        return
    cause, _, remedy = reason.partition("; ")
    raise UserError(cause, remedy)
