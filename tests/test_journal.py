"""The journal: atomic, checked, salvaged, and honest about what it cannot take."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sidecar import salvage, wire
from sidecar import store as stores
from sidecar.cli import main
from sidecar.decoding import decode
from sidecar.errors import UserError
from sidecar.filesystems import network_file_system
from sidecar.follow import Follower
from sidecar.followed import PastRuns, follow
from sidecar.journal import Chunk, Journal, JournalFull
from sidecar.journal_format import Checkpoint
from sidecar.journal_reader import JournalReader
from sidecar.salvage import QUARANTINE, ensure_sound
from sidecar.snapshot import RunSummary
from sidecar.state import PAST_SESSIONS_MAX, SESSIONS_WAITING_MAX
from sidecar.store import SUMMARY_KEY, Store
from sidecar.telemetry import Telemetry

HELLO = wire.Hello(run_id="r", rank=0, session=7, time_ns=1, mono_ns=1, project="p")


def step(number: int) -> bytes:
    return wire.encode_event(wire.Step(number, number, number, {"train/loss": float(number)}))


def fill(path: Path, frames: int = 10, events: int = 3) -> Journal:
    journal = Journal(path)
    journal.greet(HELLO, 1)
    for frame in range(frames):
        first = frame * events
        journal.append([Chunk(7, first, 1, [step(first + i) for i in range(events)])])
    return journal


def steps_in(path: Path) -> list[int]:
    with contextlib.closing(JournalReader(path)) as reader:
        return [record.event.step for record in reader.records() if isinstance(record.event, wire.Step)]


def test_what_was_appended_is_read_back_in_order_with_its_sequence(tmp_path: Path) -> None:
    fill(tmp_path / "j").close()
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        records = list(reader.records())
        assert [record.seq for record in records] == list(range(30))
        assert [record.event.step for record in records] == list(range(30))
        assert {record.row for record in records} == set(range(1, 11))
        assert [record.row for record in reader.records(after_row=9)] == [10, 10, 10]
        assert reader.hellos() == [HELLO]


@pytest.mark.parametrize("name", ["run#1", "what?", "100%25", "a b", "ü"])
def test_a_journal_is_read_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    fill(tmp_path / name / "j").close()
    assert steps_in(tmp_path / name / "j") == list(range(30))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_summary_costs_the_list_of_runs_one_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for run_id in ("good", "bad"):
        journal = store.journal(run_id)
        summary = RunSummary(run_id, "p", None, None, "finished", 3, 1)
        journal.put(SUMMARY_KEY, msgspec.msgpack.encode(summary).replace(b"bad", b"\xff\xfe\xfd"))
        journal.close()
    assert sorted(entry.state for entry in store.runs()) == ["damaged", "finished"]


@pytest.mark.parametrize("is_summarised", [True, False])
def test_the_latest_run_is_the_one_last_started_though_it_began_before_others(
    tmp_path: Path, is_summarised: bool
) -> None:
    store = Store(tmp_path)
    store.prepare()
    for run_id, *starts in (("resumed", 1, 3), ("between", 2)):
        journal = store.journal(run_id)
        for session, time_ns in enumerate(starts):
            stream = {"run_id": run_id, "rank": 0, "session": session, "project": "p", "name": "d12"}
            journal.greet(wire.Hello(**stream, time_ns=time_ns, mono_ns=0), time_ns)
        if is_summarised:
            summary = RunSummary(run_id, "p", "d12", None, "finished", 3, starts[0], starts[-1])
            journal.put_summary(msgspec.msgpack.encode(summary))
        journal.close()
    assert [entry.run_id for entry in store.runs()] == ["resumed", "between"]
    assert [found.run_id for word in ("latest", "d12") if (found := store.find(word))] == ["resumed"] * 2


def test_the_list_of_runs_reads_again_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "STAMP_NS", 0)
    store, opened = Store(tmp_path), []
    store.prepare()

    def summary(run_id: str, step: int) -> bytes:
        return msgspec.msgpack.encode(RunSummary(run_id, "p", None, None, "running", step, 1))

    class Watched(JournalReader):
        def __init__(self, path: Path, *, is_settled: bool) -> None:
            opened.append((path.name.partition("-")[0], is_settled))
            super().__init__(path, is_settled=is_settled)

    journals = {run_id: store.journal(run_id) for run_id in ("a", "b")}
    for run_id, journal in journals.items():
        journal.put(SUMMARY_KEY, summary(run_id, 1))
    journals["b"].close()
    monkeypatch.setattr(stores, "JournalReader", Watched)
    assert {entry.run_id: entry.last_step for entry in store.runs()} == {"a": 1, "b": 1}
    assert sorted(opened) == [("a", False), ("b", True)]
    assert not store.path("b").with_name(f"{store.path('b').name}-shm").exists()  # Reading leaves nothing behind.
    time.sleep(0.02)  # More than the tick of the kernel's clock for files.
    journals["a"].put(SUMMARY_KEY, summary("a", 2))
    assert {entry.run_id: entry.last_step for entry in store.runs()} == {"a": 2, "b": 1}
    assert len(opened) == 3
    store.path("b").unlink()
    assert [entry.run_id for entry in store.runs()] == ["a"]
    journals["a"].close()


def test_a_closed_journal_is_one_file_even_while_somebody_has_it_open(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j", frames=40)
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert reader.last_row() == 40
        journal.close()
        assert (tmp_path / "j-wal").stat().st_size == 0
    (tmp_path / "copy").write_bytes((tmp_path / "j").read_bytes())
    assert steps_in(tmp_path / "copy") == list(range(120))


def test_an_archived_journal_is_read_where_no_file_can_be_put_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only mount, told as such here; SQLite's own files would be put there otherwise."""
    journal = fill(tmp_path / "j")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert steps_in(tmp_path / "j") == list(range(30)), "what is in its log only is read, too"
    journal.close()
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert len(list(reader.records())) == 30
        assert [path.name for path in tmp_path.iterdir()] == ["j"]


def test_a_process_is_known_by_its_own_hello_however_often_the_run_was_restarted(tmp_path: Path) -> None:
    """A job that crashes at once and is started again, for hours: more processes than any state keeps in mind."""
    journal, stayed = Journal(tmp_path / "j"), []
    journal._db.execute("PRAGMA synchronous=OFF")
    live = Follower(tmp_path / "j", "r")
    for n in range(SESSIONS_WAITING_MAX + PAST_SESSIONS_MAX + 50):
        session, now_ns = 1000 + n, n * 10**10
        journal.greet(replace(HELLO, session=session, pid=n, time_ns=now_ns, mono_ns=now_ns), now_ns)
        step = wire.Step(now_ns + 10**9, now_ns + 10**9, 1, {"train/loss": 1.0})
        journal.append([Chunk(session, 0, now_ns, [wire.encode_event(step)])])
        stayed += [row for _, rows in live.read(10) for row in rows]
    later = Follower(tmp_path / "j", "r")
    replayed = [row for _, rows in later.read(10**6) for row in rows]
    state = live.projector.state
    assert (state.ranks[0].pid, state.restarts, state.rejected) == (n, n, {})
    assert replayed == stayed
    for one in (live, later, journal):
        one.close()


def test_a_batch_that_fails_leaves_no_trace_and_can_be_tried_again(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j", frames=1)
    good, bad = Chunk(7, 3, 1, [step(3)]), Chunk(99, 0, 1, [step(0)])
    with pytest.raises(KeyError):
        journal.append([good, bad])
    assert journal.streams[7].next_seq == 3
    journal.append([good])
    assert steps_in(tmp_path / "j") == [0, 1, 2, 3]


def test_a_summary_that_could_not_be_stored_is_stored_with_the_next_batch(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j", frames=1)
    with pytest.raises(KeyError):
        journal.append([Chunk(99, 0, 1, [step(0)])], b"news")
    journal.append([Chunk(7, 3, 1, [step(3)])], b"news")
    changes = journal._db.total_changes
    journal.put_summary(b"news")
    assert journal._db.total_changes == changes
    journal.put_summary(b"more news")
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert reader.get(SUMMARY_KEY) == b"more news"


def test_a_restart_continues_each_stream_where_it_was_committed(tmp_path: Path) -> None:
    fill(tmp_path / "j").close()
    again = Journal(tmp_path / "j")
    assert again.streams[7].next_seq == 30
    assert again.greet(HELLO, 2).next_seq == 30


def test_a_full_disk_is_told_apart_and_nothing_is_half_written(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j", frames=2)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalFull):
        journal.append([Chunk(7, 6, 1, [bytes(40_000)] * 10)])
    assert journal.streams[7].next_seq == 6
    journal._db.execute("PRAGMA max_page_count = 1000000")
    journal.append([Chunk(7, 6, 1, [step(6)])])
    assert steps_in(tmp_path / "j") == list(range(7))


def test_a_damaged_row_is_skipped_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    fill(tmp_path / "j").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "j")) as database:
        database.execute("UPDATE frames SET records = ? WHERE row = 4", (b"garbage",))
        database.commit()
    assert steps_in(tmp_path / "j") == [*range(9), *range(12, 30)]


def test_any_damaged_byte_costs_at_most_its_page_and_never_the_start(tmp_path: Path) -> None:
    """Bytes all over the file, headers and b-tree pages included; each time the sidecar must start and keep most."""
    fill(tmp_path / "sound", frames=120, events=8).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "sound")) as database:
        database.execute("DELETE FROM meta WHERE key = 'closed_in_order'")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = (tmp_path / "sound").read_bytes()
    for position in range(0, len(data), max(1, len(data) // 97)):
        path = tmp_path / f"j{position}"
        broken = bytearray(data)
        broken[position : position + 64] = bytes(byte ^ 0xFF for byte in broken[position : position + 64])
        path.write_bytes(broken)
        ensure_sound(path)
        Journal(path).close()
        kept = steps_in(path)
        assert kept == sorted(kept)
        if position > 4096:  # The first page holds the schema: without it nothing can be told apart.
            assert len(kept) >= 960 - 200, f"damage at byte {position} cost {960 - len(kept)} events"


def test_a_reader_passes_over_damaged_pages_and_counts_their_rows(tmp_path: Path) -> None:
    """Nobody opens the journal of a finished run for writing again, so nothing salvages it."""
    fill(tmp_path / "sound", frames=60, events=40).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "sound")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'frames'").fetchone()
    data = (tmp_path / "sound").read_bytes()
    costs = []
    pages = len(data) // 4096
    for page in (*range(8, pages - 6, 3), *range(pages - 6, pages)):
        if page == root - 1:  # Counted from 1. Through it every other page of the table is found.
            continue
        path = tmp_path / f"j{page}"
        path.write_bytes(data[: page * 4096] + bytes(4096) + data[(page + 1) * 4096 :])
        with contextlib.closing(JournalReader(path)) as reader:
            rows = {record.row for record in reader.records()}
            assert (len(rows) + reader.damaged_rows, reader.last_row()) == (60, 60)
            costs.append(reader.damaged_rows)
    assert sum(costs) > 0
    assert max(costs) <= 4


def test_a_reader_that_was_closed_is_no_damaged_journal(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j")
    journal.checkpoint(Checkpoint(3, 9, b"state", None))
    journal.close()
    reader = JournalReader(tmp_path / "j")
    reader.close()
    for read in (reader.checkpoint, reader.first_row, reader.last_row, lambda: list(reader.records())):
        with pytest.raises(sqlite3.ProgrammingError):
            read()
    assert reader.damaged_rows == 0


def test_a_checkpoint_on_a_damaged_page_is_not_begun_from(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j")
    journal.checkpoint(Checkpoint(3, 9, b"small", None))
    journal.checkpoint(Checkpoint(6, 18, b"large" * 10_000, None))
    journal.close()
    data = (tmp_path / "j").read_bytes()
    at = data.rindex(b"large" * 500) // 4096 * 4096 - 4096
    (tmp_path / "j").write_bytes(data[:at] + bytes(4096) + data[at + 4096 :])
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        found = reader.checkpoint()
        assert found is not None
        assert (found.row, found.state) == (3, b"small")


def test_a_journal_that_is_no_database_is_put_aside_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"not a database, but somebody's bytes" * 300)
    assert ensure_sound(path) is not None
    Journal(path).close()
    (kept,) = (tmp_path / QUARANTINE).glob("j*")
    assert kept.read_bytes().startswith(b"not a database")


def fill_and_be_killed(path: Path) -> None:
    code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.test_journal import fill
fill(Path({str(path)!r}))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False)


@pytest.mark.parametrize("look", [
    pytest.param(lambda folder: Store(folder).settle(), id="a-later-sidecar"),
    pytest.param(lambda folder: main(["export", "r", "--dir", str(folder), "-o", str(folder / "out")]), id="export"),
])  # fmt: skip
def test_what_a_killed_sidecar_left_in_the_log_is_in_the_one_file_once_somebody_has_looked(
    tmp_path: Path, look: Callable[[Path], object]
) -> None:
    """Of a run that nobody resumes the journal is never opened for writing again, and people copy the one file."""
    store = Store(tmp_path)
    store.prepare()
    path, copy = store.path("r"), tmp_path / "copy"
    log_file = path.with_name(f"{path.name}-wal")
    fill_and_be_killed(path)
    with contextlib.closing(JournalReader(path)) as reader:
        assert reader.last_row() == 10
        look(tmp_path)
        assert log_file.stat().st_size, "somebody has it open"
        assert len(list(reader.records())) == 30
    look(tmp_path)
    assert not log_file.exists() or not log_file.stat().st_size
    copy.write_bytes(path.read_bytes())
    assert steps_in(copy) == list(range(30))


def test_a_journal_that_another_process_holds_locked_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_and_be_killed(tmp_path / "j")
    monkeypatch.setattr(salvage, "BUSY_SECONDS", 0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "j")) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA wal_checkpoint")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ensure_sound(tmp_path / "j")
    assert not (tmp_path / QUARANTINE).exists()
    assert steps_in(tmp_path / "j") == list(range(30))


def test_a_journal_killed_in_the_middle_of_writing_is_sound(tmp_path: Path) -> None:
    fill_and_be_killed(tmp_path / "j")
    assert ensure_sound(tmp_path / "j") is None
    assert steps_in(tmp_path / "j") == list(range(30))


def test_checkpoints_say_where_events_begin_after_old_ones_were_dropped(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j")
    journal.checkpoint(Checkpoint(4, 40, b"state-4", b"history"))
    journal.checkpoint(Checkpoint(8, 80, b"state-8", b"history"))
    assert journal.drop_through(4) == 12
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert reader.first_checkpoint() == (4, 40, b"state-4", None)
        assert reader.checkpoint() == (8, 80, b"state-8", b"history")
        assert reader.checkpoint(number_max=79) == (4, 40, b"state-4", None)
        assert [record.row for record in reader.records()][0] == 5
    assert journal.checkpoint_rows() == [4, 8]


def test_a_damaged_checkpoint_is_not_begun_from(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j")
    journal.checkpoint(Checkpoint(4, 40, b"state-4", None))
    journal.drop_through(4)
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "j")) as database:
        database.execute("UPDATE checkpoints SET state = ?", (b"state-X",))
        database.commit()
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert reader.checkpoint() is None
        assert reader.first_checkpoint() is None


@pytest.mark.parametrize("position", range(20, 420, 57))
def test_damaged_series_are_noticed_and_drawn_anew_from_the_events(tmp_path: Path, position: int) -> None:
    """A wrong number in them would be shown as if it had been logged."""
    store = Store(tmp_path)
    store.prepare()
    journal = fill(store.path("r"))
    run = follow(store, "r")
    run.advance(Telemetry())
    expected = run.history.query(["train/loss"], 100, "step")
    journal.checkpoint(run.checkpoint(1))
    journal.close()
    run.follower.close()
    with contextlib.closing(sqlite3.connect(store.path("r"), isolation_level=None)) as database:
        (series,) = database.execute("SELECT history FROM checkpoints").fetchone()
        series = series[:position] + bytes([series[position] ^ 4]) + series[position + 1 :]
        database.execute("UPDATE checkpoints SET history = ?", (series,))
    run = PastRuns(store).read("r")
    assert run.history.query(["train/loss"], 100, "step") == expected
    assert run.state.step == 29


def test_a_checkpoint_of_another_version_is_not_begun_from(tmp_path: Path) -> None:
    """A field whose type has changed must cost some folding, not the view of the run."""
    journal = fill(tmp_path / "j")
    with contextlib.closing(Follower(tmp_path / "j", "r")) as follower:
        expected = [row for _, rows in follower.read(100) for row in rows]
    journal.checkpoint(Checkpoint(4, 24, msgspec.msgpack.encode({"run_id": "r", "tokens": "many"}), b""))
    with contextlib.closing(Follower(tmp_path / "j", "r")) as follower:
        assert [row for _, rows in follower.read(100) for row in rows] == expected
    journal.drop_through(4)
    with contextlib.closing(Follower(tmp_path / "j", "r")) as follower:
        assert (follower.row, follower.number) == (4, 24)  # What sinks have delivered is counted from the beginning.
        assert [row.step for _, rows in follower.read(100) for row in rows if row.kind == "step"] == [*range(12, 30)]
    journal.close()


def test_a_salvaged_journal_keeps_what_stands_for_the_events_that_retention_removed(tmp_path: Path) -> None:
    journal = fill(tmp_path / "j", frames=120, events=8)
    journal.checkpoint(Checkpoint(40, 320, b"state-40", None))
    journal.drop_through(40)
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "j")) as database:
        database.execute("DELETE FROM meta WHERE key = 'closed_in_order'")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((tmp_path / "j").read_bytes())
    page = data.rfind(step(959)) // 4096 * 4096
    data[page : page + 64] = b"\xff" * 64
    (tmp_path / "j").write_bytes(data)
    assert ensure_sound(tmp_path / "j") is not None
    with contextlib.closing(JournalReader(tmp_path / "j")) as reader:
        assert reader.first_checkpoint() == (40, 320, b"state-40", None)
        assert reader.first_row() == 41


def test_a_row_with_an_impossible_value_loses_that_value_only() -> None:
    raw = msgspec.msgpack.encode(["step", 1, 2, 3, {"good": 1.5, "bytes": b"x", 5: 1.0}])
    assert decode(raw, 1, {}) == wire.Step(1, 2, 3, {"good": 1.5})


STEP = b"\x95\xa4step\x01\x01\x01"


@pytest.mark.parametrize("junk", [
    b"", b"\x80", b"\xc1", b"\x93\x01\x02\x03", b"\x91" * 5000, b"\xff\xfe", b"[1]", b"\x01", b"\xa1\xff",
    STEP + b"\x81\xa1\xff\x01", STEP + b"\x81\xa1a" * 5000, STEP + b"\x81\x81\x01\x01\x01",
])  # fmt: skip
def test_junk_is_no_event_and_no_exception(junk: bytes) -> None:
    assert decode(junk, 1, {}) is None


def test_parts_that_miss_a_piece_are_given_up_without_harm() -> None:
    whole = wire.encode_event(wire.Text(1, 1, 1, "n", "x" * 100))
    parts: dict[int, list[bytes]] = {}
    pieces = [wire.encode_event(wire.Part(1, 1, i, 2, whole[i * 60 : (i + 1) * 60])) for i in range(2)]
    assert decode(pieces[1], 1, parts) is None
    assert decode(pieces[0], 1, parts) is None
    assert decode(step(1), 1, parts) is not None
    assert decode(pieces[1], 1, parts) is None
    assert decode(pieces[0], 1, parts) is None
    assert isinstance(decode(pieces[1], 1, parts), wire.Text)


def test_names_of_runs_never_leave_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("../../etc/passwd", "/abs", "a\0b", "x" * 5000, "", "..", "\u202e", "\ud800"):
        assert store.path(name).parent == tmp_path / "runs"
        assert len(store.path(name).name) < 80
    assert len({store.path(name) for name in ("a b", "a_b", "a-b")}) == 3


def test_a_second_sidecar_on_the_same_folder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    import os

    first, second = Store(tmp_path), Store(tmp_path)
    first.prepare()
    first.lock()
    with pytest.raises(UserError, match=str(os.getpid())):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


MOUNTS = """
22 1 8:1 / / rw - ext4 /dev/sda1 rw
40 22 0:41 / /home rw - nfs4 server:/home rw
41 22 0:42 / /home/local\\040disk rw - xfs /dev/sdb rw
42 22 0:43 / /scratch rw - lustre mds:/x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/var/x", None), ("/home/u/d", "nfs4"), ("/home/local disk/d", None), ("/scratch", "lustre"), ("/homes", None)],
)
def test_network_file_systems_are_recognised_by_the_mount_that_holds_the_path(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind
