"""The ring's memory layout, from the writer's and from the claimant's side."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import ring as rings
from sidecar.ring import Orphan, RingRefused


def make(directory: Path, capacity: int = 1 << 16, name: str = "r") -> rings.Ring:
    return rings.create(directory, name, hello=b"hello", session=7, rank=3, capacity=capacity)


def read_all(ring: rings.Ring) -> list[bytes]:
    result: list[bytes] = []
    position, seq = ring.tail, ring.tail_seq
    while True:
        records, position = ring.read(position, seq, bytes_max=1 << 20, events_max=64)
        if not records:
            return result
        result += records
        seq += len(records)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 900), max_size=200),
    releases=st.sets(st.integers(0, 200)),
)
def test_what_is_not_overwritten_comes_back_in_order(tmp_path_factory, sizes: list[int], releases: set[int]) -> None:
    ring = make(tmp_path_factory.mktemp("ring"), capacity=4096)
    sent: list[bytes] = []
    for index, size in enumerate(sizes):
        payload = bytes([index % 256]) * size
        assert ring.append(payload) == index
        sent.append(payload)
        if index in releases:
            ring.release(ring.head, ring.head_seq)
    kept = sent[ring.tail_seq :]
    assert read_all(ring) == kept
    orphan = Orphan(ring.path)
    assert orphan.oldest_seq() == ring.tail_seq
    assert list(orphan.events()) == list(enumerate(kept, ring.tail_seq))
    orphan.close()
    ring.remove()


def test_overwritten_events_are_counted_exactly(tmp_path: Path) -> None:
    ring = make(tmp_path, capacity=4096)
    for index in range(100):
        ring.append(b"x" * 200 + bytes([index]))
    assert ring.overwritten + len(read_all(ring)) == 100
    assert ring.overwritten == ring.tail_seq
    ring.remove()


def test_the_append_that_fills_half_of_the_ring_calls_the_alert_once(tmp_path: Path) -> None:
    ring, heads = make(tmp_path, capacity=4096), []
    ring.alert_when_half_full(lambda: heads.append(ring.head))
    for _ in range(100):
        ring.append(b"x" * 48)
    assert heads == [2048]
    assert ring.is_half_full
    ring.alert_when_half_full(lambda: heads.append(ring.head))
    ring.append(b"x" * 48)
    assert heads == [2048]
    ring.release(ring.head, ring.head_seq)
    began = ring.head
    ring.alert_when_half_full(lambda: heads.append(ring.head - began))
    for _ in range(100):
        ring.append(b"x" * 48)
    assert heads == [2048, 2048]
    assert ring.head - ring.tail <= 4096
    assert ring.tail_seq + len(read_all(ring)) == ring.head_seq == 201
    ring.remove()


def test_a_torn_record_ends_the_tail_there(tmp_path: Path) -> None:
    ring = make(tmp_path)
    for index in range(10):
        ring.append(b"payload-%d" % index)
    size = (len(b"payload-0") + 23) & ~7
    with ring.path.open("r+b") as file:
        file.seek(os.path.getsize(ring.path) - ring.capacity + 6 * size + 16)
        file.write(b"?")
    orphan = Orphan(ring.path)
    assert [seq for seq, _ in orphan.events()] == list(range(6))
    orphan.close()


def test_a_living_writer_keeps_its_ring(tmp_path: Path) -> None:
    ring = make(tmp_path)
    child = os.fork()
    if child == 0:  # A POSIX record lock does not bind its own process, so another one has to ask.
        os._exit(0 if not Orphan(tmp_path / "r.ring").claim() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ring.remove()


def test_a_forked_child_that_forgets_a_ring_holds_no_descriptor_and_leaves_the_lock(tmp_path: Path) -> None:
    ring = make(tmp_path)
    fd = ring._fd
    child = os.fork()
    if child == 0:
        ring.forget()
        closed = not os.path.exists(f"/dev/fd/{fd}")
        os._exit(0 if closed and not Orphan(tmp_path / "r.ring").claim() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ring.append(b"still ours")
    assert read_all(ring) == [b"still ours"]
    ring.remove()


def test_the_last_event_stored_is_recognised(tmp_path: Path) -> None:
    ring = make(tmp_path, capacity=4096)
    assert not ring.ends_with(b"")
    for index in range(100):
        payload = b"x" * (index * 7 % 300)
        assert not ring.ends_with(payload + b"y")
        ring.append(payload)
        assert ring.ends_with(payload)
        assert not ring.ends_with(payload + b"y")
    ring.append(b"another")
    assert not ring.ends_with(payload)
    ring.remove()


def test_the_ring_of_a_process_that_ended_can_be_claimed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        make(tmp_path).append(b"last words")
        os._exit(0)
    os.waitpid(child, 0)
    orphan = Orphan(tmp_path / "r.ring")
    assert orphan.claim()
    assert orphan.hello() == b"hello"
    assert list(orphan.events()) == [(0, b"last words")]
    orphan.close()


def test_a_ring_of_the_first_version_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "VERSION", 1)
    monkeypatch.setattr(rings, "adler32", zlib.crc32)
    ring = make(tmp_path)
    for payload in (b"one", b"two", b"three"):
        ring.append(payload)
    ring.close()
    monkeypatch.undo()
    orphan = Orphan(tmp_path / "r.ring")
    assert list(orphan.events()) == [(0, b"one"), (1, b"two"), (2, b"three")]
    orphan.close()


FAULTS = ["open_to_others", "symlink", "hard_link", "short", "magic", "version", "offsets", "directory"]


@pytest.mark.parametrize("fault", FAULTS)
def test_hostile_files_are_refused(tmp_path: Path, fault: str) -> None:
    path = make(tmp_path).path
    if fault == "open_to_others":
        path.chmod(0o644)
    elif fault == "symlink":
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
    elif fault == "hard_link":
        os.link(path, tmp_path / "other")
    elif fault == "short":
        os.truncate(path, 10)
    elif fault == "directory":
        path.unlink()
        path.mkdir()
    else:
        with path.open("r+b") as file:
            place, content = {
                "magic": (0, b"NOTARING"), "version": (8, b"\xff"),
                "offsets": (16, struct.pack("<QQ", 1 << 60, 1 << 60)),
            }[fault]  # fmt: skip
            file.seek(place)
            file.write(content)
    with pytest.raises(OSError if fault in ("symlink", "directory") else RingRefused, match="."):
        Orphan(path)


def test_no_space_is_an_error_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unsettled_event_is_found_after_a_kill_and_replaced_by_the_next_append(tmp_path: Path) -> None:
    ring = make(tmp_path)

    def found() -> list[bytes]:
        orphan = Orphan(ring.path)
        events = [payload for _, payload in orphan.events()]
        orphan.close()
        return events

    ring.append(b"first")
    ring.append_unsettled(b"open")
    ring.append_unsettled(b"open, longer")
    assert read_all(ring) == [b"first"]
    assert found() == [b"first", b"open, longer"]
    ring.append(b"second")
    assert found() == [b"first", b"second"]
    ring.remove()


def test_an_unsettled_event_never_costs_an_older_one(tmp_path: Path) -> None:
    ring = make(tmp_path, capacity=4096)
    while ring.head + 300 < ring.capacity:
        ring.append(b"x" * 200)
    before = read_all(ring)
    ring.append_unsettled(b"y" * 400)
    assert read_all(ring) == before
    assert ring.overwritten == 0
    ring.remove()
