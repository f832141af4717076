"""A journal that reached its bound gives up its oldest events, sent ones first, and says so."""

from pathlib import Path

from sidecar.journal_format import Checkpoint
from sidecar.retention import make_room
from tests.test_journal import fill, steps_in


def filled(path: Path):  # noqa: ANN201
    journal = fill(path, frames=400, events=20)
    for row in (100, 200, 300):
        journal.checkpoint(Checkpoint(row, row * 20, b"state", None))
    return journal


def test_below_the_bound_nothing_goes(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    assert make_room(journal, None, journal.used_bytes() + 1) == (0, 0)
    assert steps_in(tmp_path / "j") == list(range(8000))


def test_above_it_the_oldest_go_up_to_a_checkpoint(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    removed = make_room(journal, 400, int(journal.used_bytes() * 0.9))
    assert removed == (2000, 0)
    assert steps_in(tmp_path / "j") == list(range(2000, 8000))


def test_what_a_sink_has_not_passed_goes_only_because_it_must_and_is_counted(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    removed = make_room(journal, 150, int(journal.used_bytes() * 0.65))
    assert removed.events == 4000
    assert removed.unsent_events == 2000


def test_events_after_the_last_checkpoint_stay_whatever_the_bound(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    make_room(journal, None, 1)
    assert steps_in(tmp_path / "j") == list(range(6000, 8000))


def test_freed_space_is_used_again_before_the_file_grows(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j")
    size = (tmp_path / "j").stat().st_size
    make_room(journal, None, 1)
    before = journal.used_bytes()
    assert before < size / 2
