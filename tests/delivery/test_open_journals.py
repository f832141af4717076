"""What is said when a journal does not take what it is given."""

import sqlite3
from pathlib import Path

import pytest

from sidecar.journal import Journal, JournalFull, JournalGone
from sidecar.open_journals import OpenJournals
from sidecar.store import Store
from sidecar.telemetry import Telemetry


@pytest.mark.parametrize(("error", "state", "remedy"), [
    (JournalFull("no space left"), "full", "free some space"),
    (JournalGone("removed"), "failing", "restart the sidecar"),
    (sqlite3.OperationalError("disk I/O error"), "failing", "tried again"),
    (OSError(5, "Input/output error"), "failing", "tried again"),
])  # fmt: skip
def test_a_failure_says_what_to_do_about_it_until_the_next_commit(
    tmp_path: Path, error: OSError | sqlite3.Error, state: str, remedy: str
) -> None:
    telemetry = Telemetry()
    journals = OpenJournals(Store(tmp_path), telemetry, runs_max=1)
    journals.note_failure(error)
    assert telemetry.journal.state == state
    assert str(error) in str(telemetry.journal.reason)
    assert remedy in str(telemetry.journal.reason)
    journals.note_commit()
    assert (telemetry.journal.state, telemetry.journal.reason) == ("ok", None)
    assert (telemetry.journal.commit_failures_total, telemetry.journal.commits_total) == (1, 1)


def test_a_journal_that_cannot_be_opened_is_told_and_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, telemetry = Store(tmp_path), Telemetry()
    store.prepare()
    journal_of = store.journal

    def journal_or_fail(run_id: str) -> Journal:
        if run_id == "bad":
            raise PermissionError(13, "Permission denied")
        return journal_of(run_id)

    monkeypatch.setattr(store, "journal", journal_or_fail)
    journals = OpenJournals(store, telemetry, runs_max=1)
    assert journals.open("bad", busy=()) is None
    assert "cannot open the journal of bad" in str(telemetry.journal.reason)
    assert journals.open("good", busy=()) is not None
    assert journals.open("other", busy={"good"}) is None  # No room.
    journals.close()


def test_what_the_open_journals_take_on_the_disk_is_known_once_one_is_open(tmp_path: Path) -> None:
    store, telemetry = Store(tmp_path), Telemetry()
    store.prepare()
    journals = OpenJournals(store, telemetry, runs_max=2)
    assert telemetry.journal.bytes is None
    for run_id in ("a", "b", "a"):
        journals.open(run_id, busy=())
    assert telemetry.journal.bytes == sum(journal.used_bytes() for _, journal in journals) > 0
    journals.close()
