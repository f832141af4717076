"""A run whose last events are damaged on the disk: how it ended is still told, and what is missing is said."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from sidecar import wire
from sidecar.followed import PastRuns
from sidecar.journal import Chunk, Journal
from sidecar.journal_format import SUMMARY_KEY
from sidecar.journal_reader import JournalReader
from sidecar.snapshot import RunSnapshot, RunSummary
from sidecar.store import Store
from tests.test_journal import HELLO, fill


def ended_run(tmp_path: Path, state: str) -> Path:
    """Ten rows of steps, one that says how it ended, and one of the sidecar's own."""
    store = Store(tmp_path)
    store.prepare()
    path = store.path("r")
    journal = fill(path)
    journal.append([Chunk(7, 30, 2, [wire.encode_event(wire.Finished(30, 30, state=state))])])
    journal.own_stream(9, 1)
    journal.append([Chunk(9, 0, 3, [wire.encode_event(wire.Hardware(31, 31, [], {}))])])
    journal.put(SUMMARY_KEY, msgspec.msgpack.encode(RunSummary("r", "p", None, None, state, 29, 1)))
    journal.close()
    return path


def damage(path: Path, *rows: int) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executemany("UPDATE frames SET crc = 1 WHERE row = ?", [(row,) for row in rows])


def shown(tmp_path: Path) -> RunSnapshot:
    run = PastRuns(Store(tmp_path)).read("r")
    assert run is not None
    assert run.snapshot is not None
    return run.snapshot


@pytest.mark.parametrize("state", ["finished", "failed"])
@pytest.mark.parametrize("rows", [(11,), (10, 11, 12)])
def test_how_it_ended_is_taken_from_the_summary_where_that_row_is_damaged(
    tmp_path: Path, state: str, rows: tuple[int, ...]
) -> None:
    damage(ended_run(tmp_path, state), *rows)
    run = shown(tmp_path)
    assert run.state == state
    what = f"{len(rows)} row{'s' if len(rows) > 1 else ''} of the journal"
    assert what in run.verdict
    assert [(alert.name, what in alert.message) for alert in run.alerts] == [("journal_damaged", True)]
    assert run.step == 29 - 3 * (10 in rows)


def test_damage_before_the_end_is_told_and_changes_nothing_else(tmp_path: Path) -> None:
    damage(ended_run(tmp_path, "finished"), 4)
    run = shown(tmp_path)
    assert run.state == "finished"
    assert "damaged" not in run.verdict
    assert [alert.name for alert in run.alerts] == ["journal_damaged"]


def test_a_run_that_was_resumed_after_the_damage_is_not_ended_by_its_old_summary(tmp_path: Path) -> None:
    path = ended_run(tmp_path, "finished")
    damage(path, 11)
    journal = Journal(path)
    journal.greet(msgspec.structs.replace(HELLO, session=8, time_ns=40, mono_ns=40), 40)
    journal.append([Chunk(8, 0, 41, [wire.encode_event(wire.Step(41, 41, 30, {"train/loss": 1.0}))])])
    journal.close()
    assert shown(tmp_path).state in ("running", "stalled")


def test_the_newest_damaged_row_is_known_also_where_whole_pages_cannot_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "sound", frames=60, events=40).close()
    data = (tmp_path / "sound").read_bytes()
    page = data.rindex(wire.encode_event(wire.Step(2399, 2399, 2399, {"train/loss": 2399.0}))) // 4096
    (tmp_path / "j").write_bytes(data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :])
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        good = {record.row for record in reader.records()}
        assert reader.last_damaged_row == max(set(range(1, 61)) - good)
        assert reader.damaged_rows == 60 - len(good) > 0
