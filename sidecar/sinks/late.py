"""What `sidecar sink` and `sidecar sync` do: sinks bound late, paused, listed, and runs sent after the fact.

Given: a data directory and the configuration. Hands on: cursors that a live sidecar takes up within a second, or,
where there is none, the delivery itself.
Never: touches a journal, or delivers beside a live sidecar.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.journal import JournalReader
from sidecar.sinks import registry
from sidecar.sinks.cursors import Cursors
from sidecar.sinks.manager import SinkManager
from sidecar.store import Store
from sidecar.telemetry import SinkHealth, Telemetry

POLL_SECONDS = 0.1


class Binding(NamedTuple):
    """One run at one sink."""

    run_id: str
    sink: str
    delivered: int
    """Rows that the sink took."""
    lag_rows: int
    """Journal rows that it has not got."""
    paused: bool


def request(data_dir: Path, run_id: str, sink: str) -> bool:
    """Bind a sink to a run, whatever its state. False: it was bound already. Raises UnknownSink, SinkNotInstalled."""
    registry.load(sink)
    cursors = Cursors(data_dir / "cursors.sqlite")
    try:
        new = cursors.request(run_id, sink)
        cursors.pause(run_id, sink, False)
        return new
    finally:
        cursors.close()


def pause(data_dir: Path, run_id: str, sink: str, paused: bool = True) -> None:
    """A paused sink keeps its place. Raises UnknownSink."""
    registry.target_of(sink)
    cursors = Cursors(data_dir / "cursors.sqlite")
    try:
        cursors.pause(run_id, sink, paused)
    finally:
        cursors.close()


def bindings(store: Store) -> list[Binding]:
    """Every run at every sink it was ever bound to, the newest run first."""
    cursors = Cursors(store.directory / "cursors.sqlite")
    try:
        found: list[Binding] = []
        for entry in store.runs():
            reader = JournalReader(entry.path)
            last_row = reader.last_row()
            reader.close()
            for sink, cursor in sorted(cursors.of_run(entry.run_id).items()):
                paused = cursors.paused(entry.run_id, sink)
                found.append(Binding(entry.run_id, sink, cursor.number, max(0, last_row - cursor.row), paused))
        return found
    finally:
        cursors.close()


def unsent(store: Store) -> list[Binding]:
    """What `sidecar sync` has to do."""
    return [binding for binding in bindings(store) if binding.lag_rows]


def deliver_now(
    config: Any,
    store: Store,
    wanted: Iterable[tuple[str, str]],
    *,
    timeout_seconds: float,
    on_progress: Callable[[dict[tuple[str, str], SinkHealth]], None] = lambda health: None,
) -> dict[tuple[str, str], SinkHealth]:
    """Send these (run, sink) pairs here and now, from where each is. Only where no sidecar serves the directory:
    the caller holds the store's lock. Returns how each ended. Raises UnknownSink, SinkNotInstalled."""
    pairs = list(wanted)
    manager = SinkManager(config, store, Telemetry())
    deadline = time.monotonic() + timeout_seconds
    try:
        for run_id, sink in pairs:
            manager.add(run_id, sink)
        while not manager.drained() and time.monotonic() < deadline:
            on_progress(_health(manager, pairs))
            time.sleep(POLL_SECONDS)
    finally:
        manager.close(max(5.0, deadline - time.monotonic()))
    return _health(manager, pairs)


def _health(manager: SinkManager, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], SinkHealth]:
    return {pair: health for pair in pairs if (health := manager.health(*pair)) is not None}
