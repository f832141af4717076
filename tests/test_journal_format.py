"""A journal that a sidecar of another version wrote: refused by every reader in one line, and never misread."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from sidecar.charts.load import load_file, load_runs
from sidecar.cli import main
from sidecar.errors import Exit, UserError
from sidecar.follow import Follower
from sidecar.journal import Journal
from sidecar.journal_format import FORMAT, SUMMARY_KEY, WrongFormat
from sidecar.journal_reader import JournalReader
from sidecar.open_journals import OpenJournals
from sidecar.salvage import QUARANTINE
from sidecar.snapshot import RunSummary
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from tests.test_journal import fill, steps_in


@pytest.fixture(params=[FORMAT + 1, FORMAT - 1], ids=["newer", "older"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The journal of run r in tmp_path, not closed in order, with something that would be shown if it were read."""
    store = Store(tmp_path)
    store.prepare()
    journal = fill(store.path("r"))
    journal.put(SUMMARY_KEY, msgspec.msgpack.encode(RunSummary("r", "p", "name", None, "finished", 3, 1)))
    journal.close()
    write(store.path("r"), "UPDATE meta SET value = ? WHERE key = 'format'", request.param)
    write(store.path("r"), "DELETE FROM meta WHERE key = ?", "closed_in_order")
    return store.path("r")


def write(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement, values)


def test_neither_a_reader_nor_the_writer_takes_it(path: Path) -> None:
    before = path.read_bytes()
    store = Store(path.parents[1])
    for open_it in (JournalReader, Journal, lambda path: Follower(path, "r"), lambda path: store.journal("r")):
        with pytest.raises(WrongFormat, match=r"by an? (newer|older) sidecar in journal format \d; this one reads"):
            open_it(path)
    assert path.read_bytes() == before
    assert not (path.parent / QUARANTINE).exists()


def test_the_commands_say_so_in_one_line(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "r", "--dir", str(tmp_path)]) == Exit.NO_DATA
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "journal format" in line
    assert "fix: upgrade this sidecar" in err
    assert main(["runs", "--dir", str(tmp_path)]) == Exit.OK
    out = capsys.readouterr().out
    assert path.stem in out
    assert "unreadable" in out
    assert "finished" not in out


def test_it_is_logged_once_however_often_runs_are_listed(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    for _ in range(3):
        (entry,) = store.runs()
    assert (entry.state, entry.run_id) == ("unreadable", path.stem)
    assert caplog.text.count("journal format") == 1


def test_charts_of_other_runs_are_drawn_and_one_of_it_is_refused(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(Store(tmp_path).path("good")).close()
    (drawn,) = load_runs(tmp_path)
    assert drawn.rows_total
    assert "passed over" in caplog.text
    with pytest.raises(UserError, match="journal format"):
        load_file(path)


def test_trainers_of_that_run_hold_their_events_and_are_told_what_to_do(path: Path, tmp_path: Path) -> None:
    telemetry = Telemetry()
    journals = OpenJournals(Store(tmp_path), telemetry, runs_max=2)
    assert journals.open("r", busy=()) is None
    assert "journal format" in str(telemetry.journal.reason)
    assert "upgrade this sidecar" in str(telemetry.journal.reason)
    assert journals.open("other", busy=()) is not None
    journals.close()


def test_a_number_that_is_none_is_damage_and_the_rows_are_read(tmp_path: Path) -> None:
    fill(tmp_path / "j").close()
    write(tmp_path / "j", "UPDATE meta SET value = ? WHERE key = 'format'", b"\xff\x00")
    assert steps_in(tmp_path / "j") == list(range(30))
