"""The last status of a launch whose sidecar does not answer."""

from contextlib import closing
from pathlib import Path

import pytest

from sidecar import drain, wire
from sidecar.config import Config
from sidecar.follow import Follower
from sidecar.history import History
from sidecar.journal import Chunk
from sidecar.journal_reader import JournalReader
from sidecar.sinks.cursors import Cursor, Cursors
from sidecar.store import Store


def test_the_status_of_a_long_run_is_read_from_its_last_checkpoint_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.prepare()
    journal = store.journal("r")
    journal.greet(wire.Hello(run_id="r", rank=0, session=7, time_ns=1, mono_ns=1, project="p", name="long"), 1)

    def emit(*steps: int) -> None:
        events = [wire.Step(step + 1, step + 1, step, {"train/loss": float(step)}) for step in steps]
        records = [wire.encode_event(event) for event in events]
        journal.append([Chunk(7, journal.streams[7].next_seq, 1, records)])

    emit(*range(100))
    follower = Follower(store.path("r"), "r")
    list(follower.read(100))
    checkpoint = follower.checkpoint(History().dump())
    assert checkpoint is not None
    journal.checkpoint(checkpoint)
    follower.close()
    emit(100, 101)
    read: list[int] = []
    records = JournalReader.records

    def watched(self: JournalReader, after_row: int = 0, rows_max: int | None = None):  # noqa: ANN202
        for record in records(self, after_row, rows_max):
            read.append(record.seq)
            yield record

    monkeypatch.setattr(JournalReader, "records", watched)
    status = drain.from_journal(Config(dir=str(tmp_path)), "r")
    journal.close()
    assert (status["step"], status["loss"], status["name"]) == (101, 101.0, "long")
    assert read == [100, 101]


def test_a_run_without_a_journal_has_no_status_and_gets_none(tmp_path: Path) -> None:
    assert drain.from_journal(Config(dir=str(tmp_path)), "never") == {}
    assert not list(tmp_path.rglob("*.sqlite"))


def test_only_the_runs_of_this_launch_are_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    journals = {run_id: store.journal(run_id) for run_id in ("new", "old", "none")}
    for journal in journals.values():
        journal.own_stream(1, 1)
        journal.append([Chunk(1, 0, 1, [b"a"]), Chunk(1, 1, 1, [b"b"])])
    with closing(Cursors(tmp_path / "cursors.sqlite")) as cursors:
        cursors.move("new", "jsonl", Cursor(2, 5))
        cursors.move("new", "wandb", Cursor(1, 1))
        cursors.request("old", "tensorboard")
    new, old = ({run_id: store.path(run_id)} for run_id in ("new", "old"))
    assert drain.sinks_of(tmp_path, new) == {"jsonl": False, "wandb": True}
    assert drain.sinks_of(tmp_path, new | old) == {"jsonl": False, "wandb": True, "tensorboard": True}
    assert drain.sinks_of(tmp_path, {"none": store.path("none")}) == {}
    assert drain.sinks_of(tmp_path / "nowhere", new) is None
    for journal in journals.values():
        journal.close()


BEHIND = {"state": "failing", "lag_events": 5}


def test_a_sink_that_is_behind_is_waited_for_where_it_lacks_rows_of_ours() -> None:
    status = {"sinks": {"wandb": BEHIND, "jsonl": {"state": "ok", "lag_events": 0}}}
    assert not drain.drained(status)
    assert not drain.drained(status, {"wandb": True})
    assert drain.drained(status, {"wandb": False, "jsonl": True}), "what the status says of jsonl is enough"
    assert drain.drained(status, {})


@pytest.mark.parametrize(("state", "success_age_seconds", "waits"), [
    ("failing", None, False),  # It has never worked.
    ("failing", 9.0, False),
    ("failing", 1.0, True),  # An accident, perhaps.
    ("ok", 9.0, True),  # Slow.
    ("starting", None, True),
])  # fmt: skip
def test_a_sink_that_has_been_failing_for_longer_than_the_grace_is_not_waited_for(
    state: str, success_age_seconds: float | None, waits: bool
) -> None:
    sink = {"state": state, "lag_events": 5, "last_success_age_seconds": success_age_seconds}
    status = {"state": "finished", "sinks": {"wandb": sink, "jsonl": {"state": "ok", "lag_events": 0}}}
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    assert drain.wait(lambda: status, 5.0, pause=pause, serving=True) == status
    assert bool(pauses) is waits


def test_the_card_leaves_out_sinks_that_only_earlier_runs_have() -> None:
    status = {"run_id": "r", "sinks": {"wandb": BEHIND, "csv": BEHIND, "otlp": BEHIND, "x": {"state": "disabled"}}}
    assert drain.without_others(status, ["csv:10"], {"otlp": True})["sinks"].keys() == {"csv", "otlp", "x"}
    assert drain.without_others(status, [], None) == status
    assert drain.without_others({}, [], {}) == {}


@pytest.mark.parametrize(("state", "lacks", "drained"), [
    ("failing", False, True),  # For another run.
    ("failing", True, False),
    ("starting", None, True),  # Another run's altogether.
    ("starting", False, False),  # The status is older than what the cursors say: what it comes to is not known yet.
    ("ok", False, True),
])  # fmt: skip
def test_a_sink_that_has_all_of_this_launch_is_waited_for_until_it_says_how_it_is(
    state: str, lacks: bool | None, drained: bool
) -> None:
    status = {"sinks": {"wandb": {"state": state, "lag_events": 3}}}
    assert drain.drained(status, {} if lacks is None else {"wandb": lacks}) is drained
