"""After a crash of the host: what a run was when everything ended is not what it is for ever."""

import os
import socket
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sidecar import wire
from sidecar.abandoned import Abandoned
from sidecar.followed import PastRuns
from sidecar.journal import Chunk
from sidecar.journal_format import SUMMARY_KEY
from sidecar.ring import process_started_seconds
from sidecar.snapshot import RunSnapshot, RunSummary
from sidecar.store import Store
from tests.test_journal import HELLO, step

GONE = replace(HELLO, host=socket.gethostname(), pid=os.getpid(), pid_started=1.0)
"""Of a process that had this pid long ago."""
LIVES = replace(GONE, pid_started=process_started_seconds(os.getpid()))


def left(tmp_path: Path, hello: wire.Hello, state: str = "running", steps: int = 2) -> Store:
    store = Store(tmp_path)
    store.prepare()
    journal = store.journal("r")
    journal.greet(hello, 1)
    journal.append([Chunk(7, 0, 1, [step(number) for number in range(steps)])])
    journal.put(SUMMARY_KEY, msgspec.msgpack.encode(RunSummary("r", "p", None, None, state, 1, 1)))
    journal.close()
    return store


def after_the_end(store: Store) -> RunSnapshot:
    """The run once `Abandoned` has done its work."""
    events: list[wire.Event] = []
    Abandoned(store, lambda run_id, event: events.append(event)).end()
    journal = store.journal("r")
    journal.own_stream(9, 2)
    journal.append([Chunk(9, 0, 2, [wire.encode_event(event) for event in events])])
    journal.close()
    run = PastRuns(store).read("r")
    assert run is not None
    assert run.snapshot is not None
    return run.snapshot


@pytest.mark.parametrize("state", ["starting", "running", "stalled"])
def test_a_run_whose_processes_are_gone_is_lost_though_nobody_says_so(tmp_path: Path, state: str) -> None:
    shown = after_the_end(left(tmp_path, GONE, state))
    assert (shown.state, shown.step) == ("lost", 1)


def test_a_process_that_has_only_greeted_is_lost_like_any_other(tmp_path: Path) -> None:
    shown = after_the_end(left(tmp_path, GONE, "starting", steps=0))
    assert (shown.state, shown.verdict) == (
        "lost", "Lost: the trainer process is gone without saying goodbye before the first step.")
    assert shown.elapsed_seconds == pytest.approx(0.0, abs=1.0)


def test_one_that_has_only_greeted_does_not_hide_that_its_predecessor_is_gone(tmp_path: Path) -> None:
    store = left(tmp_path, GONE)
    journal = store.journal("r")
    journal.greet(replace(GONE, session=8, time_ns=2, mono_ns=2), 2)
    journal.close()
    assert after_the_end(store).state == "lost"


@pytest.mark.parametrize(("hello", "state"), [
    pytest.param(LIVES, "running", id="it-lives"),
    pytest.param(replace(GONE, host="elsewhere"), "running", id="on-another-host"),
    pytest.param(GONE, "finished", id="it-had-ended"),
])  # fmt: skip
def test_other_runs_are_left_alone(tmp_path: Path, hello: wire.Hello, state: str) -> None:
    events: list[wire.Event] = []
    Abandoned(left(tmp_path, hello, state), lambda run_id, event: events.append(event)).end()
    assert events == []


def test_a_run_that_was_heard_of_goes_on_whatever_its_process_ids_look_like_from_here(tmp_path: Path) -> None:
    """As in a container of its own, where they mean other processes."""
    events: list[wire.Event] = []
    abandoned = Abandoned(left(tmp_path, GONE), lambda run_id, event: events.append(event))
    abandoned.greet(GONE)
    abandoned.end()
    assert events == []


def test_only_the_newest_process_of_a_rank_counts(tmp_path: Path) -> None:
    store = left(tmp_path, GONE)
    journal = store.journal("r")
    journal.greet(replace(LIVES, session=8, time_ns=2, mono_ns=2), 2)
    journal.close()
    events: list[wire.Event] = []
    Abandoned(store, lambda run_id, event: events.append(event)).end()
    assert events == []
