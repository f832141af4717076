"""Runs that an earlier sidecar left going on and whose processes are gone: after a crash of the host nobody says so.

Given: the store; Hellos heard since the start. Hands on: a RankEnded event for each process that is gone.
Never: judges a process of another host or one that has spoken since, or reads the journal of a run that has ended.
"""

import contextlib
import logging
import socket
import sqlite3
import time
from collections.abc import Callable

from sidecar import wire
from sidecar.journal_reader import JournalReader
from sidecar.store import Store
from sidecar.trainers import lives

log = logging.getLogger("sidecar.abandoned")

SILENT_SECONDS = 20.0
"""After the sidecar's start. Processes that live have introduced themselves again long before."""
RUNS_MAX = 8
"""The newest: as many as a host may have been training when it crashed."""
GOES_ON = ("starting", "running", "stalled")
REASON = "the training process is gone, and so was the sidecar"


class Abandoned:
    def __init__(self, store: Store, submit: Callable[[str, wire.Event], None]) -> None:
        """``submit`` queues an event for a run's journal."""
        self._store, self._submit = store, submit
        self._heard: set[str] | None = set()
        """Runs of which a process has spoken; None once that does not matter any more."""

    def greet(self, hello: wire.Hello) -> None:
        """A process has introduced itself. Thread-safe."""
        if (heard := self._heard) is not None:
            heard.add(hello.run_id)

    def end(self) -> None:
        """Call it once, SILENT_SECONDS after the start."""
        heard, self._heard = self._heard or set(), None
        left = [run for run in self._store.runs() if run.state in GOES_ON and run.run_id not in heard]
        for run in left[:RUNS_MAX]:
            with contextlib.suppress(sqlite3.Error), contextlib.closing(JournalReader(run.path)) as reader:
                self._end(reader.hellos())

    def _end(self, hellos: list[wire.Hello]) -> None:
        newest = {hello.rank: hello for hello in hellos}
        over = {rank for rank, hello in newest.items() if _is_gone(hello)}
        # Of such a rank all of them: the newest may have greeted only, so that an earlier one's state is shown.
        gone = [hello for hello in hellos if hello.rank in over and _is_gone(hello)]
        if gone:
            log.warning("run %s had not ended when the sidecar did, and its processes are gone", gone[0].run_id)
        for hello in gone:
            ended = wire.RankEnded(time.time_ns(), time.monotonic_ns(), hello.rank, hello.session, REASON)
            self._submit(hello.run_id, ended)


def _is_gone(hello: wire.Hello) -> bool:
    return hello.host == socket.gethostname() and not lives(hello)
