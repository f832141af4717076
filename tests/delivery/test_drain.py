"""The last status of a launch whose sidecar does not answer."""

from pathlib import Path

import pytest

from sidecar import drain, wire
from sidecar.config import Config
from sidecar.follow import Follower
from sidecar.journal import Chunk, JournalReader
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
    checkpoint = follower.checkpoint()
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
