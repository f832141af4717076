"""Rings of dead trainers: what is in them is journaled whole, whatever fails meanwhile."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import leftovers, recovery, ring, wire
from sidecar.intake import Intake
from sidecar.journal import Journal, JournalFull
from sidecar.recovery import Recovery, rings_of
from sidecar.rendezvous import endpoint_key, private_directory, ring_directories
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from tests.delivery.processes import journaled_steps

CAPACITY_BYTES = 1 << 20


class Scene:
    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self.store, self.telemetry = Store(folder), Telemetry()
        self.store.prepare()
        self.intake = Intake(self.store, self.telemetry, streams_max=8, runs_max=4)
        self.intake.bind(endpoint)
        self.recovery = Recovery(self.intake, self.telemetry, endpoint)

    def leave_ring(
        self, name: str, steps: int = 0, *, released: int = 0, session: int = 7, hello: bytes | None = None
    ) -> Path:
        """As a trainer that was killed leaves it; its first ``released`` steps were acknowledged."""
        facts = wire.Hello(run_id="r", rank=0, session=session, time_ns=1, mono_ns=1, project="p")
        name = f"{endpoint_key(self.endpoint)}-{name}"
        folder = private_directory(ring_directories()[0])
        made = ring.create(
            folder, name, hello=wire.encode(facts) if hello is None else hello, session=session, rank=0,
            capacity=CAPACITY_BYTES,
        )  # fmt: skip
        for step in range(steps):
            made.append(wire.encode_event(wire.Step(1, 1, step, {"train/loss": 1.0})))
            if step + 1 == released:
                made.release(made.head, made.head_seq)
        made.close()
        assert made.path is not None
        return made.path


@pytest.fixture
def scene(tmp_path: Path, endpoint: str) -> Iterator[Scene]:
    made = Scene(tmp_path, endpoint)
    yield made
    made.intake.close()


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_commit_that_fails_loses_nothing_and_the_next_scan_takes_the_rest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    monkeypatch.setattr(recovery, "EVENTS_PER_COMMIT", 256)
    calls, append = 0, Journal.append

    def append_but_once(self: Journal, chunks, summary=None) -> None:  # noqa: ANN001
        nonlocal calls
        calls += 1
        if calls == failing:
            raise JournalFull("no space")
        append(self, chunks, summary)

    monkeypatch.setattr(Journal, "append", append_but_once)
    scene.leave_ring("a", steps=1000)
    assert scene.recovery.scan() == []
    assert len(list(rings_of(scene.endpoint))) == 1
    assert [hello.session for hello in scene.recovery.scan()] == [7]
    assert journaled_steps(scene.folder, "r") == list(range(1000))
    assert scene.telemetry.events_lost_total == {}
    assert list(rings_of(scene.endpoint)) == []


def test_a_trainer_killed_between_two_stores_of_its_cursors_loses_nothing(scene: Scene) -> None:
    path = scene.leave_ring("a", steps=50, released=20)
    with path.open("r+b") as file:
        file.seek(ring.TAIL_OFFSET)
        tail, tail_seq, overwritten = ring.TAIL.unpack(file.read(ring.TAIL.size))
        assert tail_seq == 20
        file.seek(ring.TAIL_OFFSET)
        file.write(ring.TAIL.pack(tail, 17, overwritten))
    assert len(scene.recovery.scan()) == 1
    assert journaled_steps(scene.folder, "r") == list(range(20, 50))
    assert scene.telemetry.events_lost_total == {"ring_overwritten": 20}  # This sidecar never saw them.


def test_a_fault_that_may_pass_is_tried_again_and_counted_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scene.leave_ring("a", steps=3)

    def none_left(opened: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(opened))

    with monkeypatch.context() as short:
        short.setattr(recovery, "Orphan", none_left)
        for _ in range(3):
            assert scene.recovery.scan() == []
    assert scene.telemetry.rings_refused_total == {"OSError": 1}
    assert len(scene.recovery.scan()) == 1
    assert not path.exists()


@pytest.mark.parametrize("hello", [b"", b"junk", wire.PREFIX + b"\x91" * 4000, wire.encode(wire.WantHello(7))])
def test_a_ring_without_a_hello_is_left_alone_and_those_after_it_are_taken(scene: Scene, hello: bytes) -> None:
    bad = scene.leave_ring("a", hello=hello)
    os.chmod(scene.leave_ring("b", steps=3, session=8), 0o644)
    scene.leave_ring("c", steps=3, session=9)
    for _ in range(2):
        scene.recovery.scan()
    assert journaled_steps(scene.folder, "r") == [0, 1, 2]
    assert bad.exists()
    assert sum(scene.telemetry.rings_refused_total.values()) == 2


def test_the_memory_of_rings_that_were_never_finished_is_given_back(scene: Scene) -> None:
    """A trainer killed while it creates its ring leaves up to 16 MiB in /dev/shm."""
    whole = scene.leave_ring("whole", steps=1)
    old, new, other = (
        whole.with_name(name)
        for name in (f".{whole.stem}-old.draft", f".{whole.stem}-new.draft", ".ffffffff-other.draft")
    )
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (1, 1))
    found = {one.path for one in leftovers.leftovers(time.time(), [whole.parent])}
    assert {old, other, whole} <= found
    assert new not in found
    scene.recovery.remove_drafts(time.time())
    assert [path.exists() for path in (whole, old, new, other)] == [True, False, True, True]
    leftovers.remove([one for one in leftovers.leftovers(time.time(), [whole.parent]) if one.path == other])
    assert not other.exists()
    new.unlink()
