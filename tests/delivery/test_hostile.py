"""Whatever arrives on the socket: the intake lives, counts it, and takes the good stream beside it."""

import contextlib
import itertools
import random
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import open_journals, sessions, wire
from sidecar.intake import Intake
from sidecar.journal import Journal, JournalFull
from sidecar.journal_reader import JournalReader
from sidecar.store import Store
from sidecar.submissions import READINGS_MAX
from sidecar.telemetry import Telemetry


class Bench:
    """An intake in this process, a peer that may send anything, and rounds on demand."""

    def __init__(self, folder: Path) -> None:
        self.store, self.telemetry = Store(folder), Telemetry()
        self.store.prepare()
        self.intake = Intake(self.store, self.telemetry, streams_max=8, runs_max=4)
        self.path = folder / "s"
        self.intake.bind(f"ipc://{self.path}")
        self.context = zmq.Context()
        self.peer = self.context.socket(zmq.DEALER)
        self.peer.connect(f"ipc://{self.path}")
        self.markers = itertools.count(2**62)

    def send(self, *frames: bytes) -> None:
        self.peer.send_multipart(list(frames))
        assert self.intake._socket.poll(10_000), "the message has not arrived"
        self.rounds()

    def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.intake.round(0.05)

    def replies(self) -> list[object]:
        """All answers to what was sent so far: those before the answer to one more message."""
        last = wire.WantHello(next(self.markers))
        self.send(frame(0, 0, session=last.session))
        found: list[object] = []
        while last not in found:
            assert self.peer.poll(10_000), "the answer has not arrived"
            found.append(wire.decode_from_sidecar(self.peer.recv()))
        return found[:-1]

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.intake.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def hello(**changes: object) -> wire.Hello:
    facts = {"run_id": "r", "rank": 0, "session": 7, "time_ns": 1, "mono_ns": 1, "project": "p", **changes}
    return wire.Hello(**facts)


def frame(first: int, count: int, *, oldest: int = 0, session: int = 7, run_id: str = "r") -> bytes:
    records = [wire.encode_event(wire.Step(1, 1, first + i, {"train/loss": 1.0})) for i in range(count)]
    return wire.encode(wire.Frame(run_id, 0, session, first, oldest, records))


def test_a_good_stream_is_acknowledged_after_its_commit(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    bench.send(frame(0, 5))
    assert bench.replies() == [wire.Ack(7, 0), wire.Ack(7, 5)]


def test_a_repeated_frame_is_acknowledged_again_and_stored_once(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    for message in (frame(0, 5), frame(0, 5), frame(3, 5)):
        bench.send(message)
    assert bench.replies()[-1] == wire.Ack(7, 8)
    assert bench.telemetry.events_total == 8
    assert bench.telemetry.duplicates_total == 7


def test_a_hole_asks_for_what_is_missing_and_stores_nothing(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    bench.send(frame(10, 5))
    assert bench.replies()[-1] == wire.Resend(7, 0)
    assert bench.telemetry.events_total == 0


def test_a_hole_that_can_never_be_filled_is_declared(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    bench.send(frame(10, 5, oldest=10))
    assert bench.replies()[-1] == wire.Ack(7, 15)
    assert bench.telemetry.events_lost_total == {"ring_overwritten": 10}


def test_a_loss_is_counted_once_however_often_its_commit_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(wire.encode(hello()))

    def full(self: Journal, chunks: object, summary: object = None) -> None:
        raise JournalFull("no space")

    with monkeypatch.context() as outage:
        outage.setattr(Journal, "append", full)
        for _ in range(3):
            bench.send(frame(10, 5, oldest=10))
    bench.send(frame(10, 5, oldest=10))
    assert bench.replies()[-1] == wire.Ack(7, 15)
    assert bench.telemetry.events_lost_total == {"ring_overwritten": 10}


@pytest.mark.parametrize("failing", ["append", "own_stream"])
def test_the_end_of_a_process_is_journaled_although_the_disk_was_full_when_it_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The usual reason why both happen at once: the trainer could not write its checkpoint either."""
    bench.send(wire.encode(hello()))
    bench.send(frame(0, 1))

    def full(self: Journal, *given: object) -> None:
        raise JournalFull("no space")

    with monkeypatch.context() as outage:
        outage.setattr(Journal, failing, full)
        bench.intake.submit("r", wire.RankEnded(1, 1, rank=0, session=7, reason="gone"))
        bench.intake.submit("r", wire.Hardware(1, 1))
        bench.rounds(3)
    bench.rounds(3)
    with contextlib.closing(JournalReader(bench.store.path("r"))) as reader:
        kinds = [wire.kind_of(record.event) for record in reader.records()]
    assert kinds == ["step", "rank_ended"]


def test_what_the_sidecar_adds_itself_stays_bounded_while_the_disk_hangs_and_the_newest_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(wire.encode(hello()))
    written: list[int] = []
    bench.intake.submit("r", wire.RankEnded(1, 1, rank=0, session=7, reason="gone"))
    for number in range(READINGS_MAX + 100):  # No round runs meanwhile.
        bench.intake.submit("r", wire.Hardware(number, number))
        bench.intake.write("r", "summary", lambda journal, number=number: written.append(number))
    assert bench.telemetry.events_lost_total == {"journal_stalled": 100}
    bench.rounds(3)
    with contextlib.closing(JournalReader(bench.store.path("r"))) as reader:
        events = [record.event for record in reader.records()]
    assert wire.kind_of(events[0]) == "rank_ended"
    assert [event.time_ns for event in events[1:]] == list(range(100, READINGS_MAX + 100))
    assert written == [READINGS_MAX + 99]


def test_what_is_to_be_written_at_once_waits_for_no_batch(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    written: list[str] = []
    bench.intake.write("r", "checkpoint", lambda journal: written.append("later"))
    bench.rounds(2)
    assert written == []
    bench.intake.write("r", "summary", lambda journal: written.append("at once"), at_once=True)
    bench.rounds(1)
    assert written == ["later", "at once"]


def test_no_fault_of_who_listens_holds_up_the_delivery(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """For example a sink that can start no thread, because the container may have no more processes."""
    told: list[str] = []

    def fail(run_id: str, *rest: object) -> None:
        told.append(run_id)
        raise RuntimeError("can't start new thread")

    bench.intake.on_hello, bench.intake.summary_of = lambda hello, received_ns: fail(hello.run_id), fail
    bench.intake.on_committed = fail
    for session, run_id in ((7, "r"), (8, "other")):
        bench.intake._take(b"peer", [wire.encode(hello(session=session, run_id=run_id))])
        bench.intake._take(b"peer", [frame(0, 3, session=session, run_id=run_id)])
    bench.intake.commit()
    assert bench.telemetry.events_total == 6
    assert told == ["r", "other"] * 3
    assert bench.telemetry.frames_rejected_total == {"internal_error": 6}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("first", [2**63 - 3, 2**63, 2**64 - 10])
def test_a_sequence_number_that_no_journal_can_hold_disturbs_nobody(bench: Bench, first: int) -> None:
    bench.send(wire.encode(hello()))
    bench.peer.send(frame(0, 5))
    bench.send(frame(first, 1, oldest=first))
    assert bench.replies()[-1] == wire.Ack(7, 5)
    assert bench.telemetry.frames_rejected_total == {"impossible_frame": 1}


def test_an_unknown_stream_is_asked_who_it_is(bench: Bench) -> None:
    bench.send(frame(0, 1, session=99))
    assert bench.replies() == [wire.WantHello(99)]


def test_another_version_is_refused_in_words(bench: Bench) -> None:
    bench.send(b"TS\x09" + b"anything")
    (reply,) = bench.replies()
    assert isinstance(reply, wire.Refused)
    assert "version 9" in reply.reason
    assert bench.telemetry.frames_rejected_total == {"wrong_version": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": ""}, {"run_id": "x" * 1000}, {"rank": -1}, {"rank": 2**40}, {"session": -5}, {"world_size": 0},
    ],
)  # fmt: skip
def test_an_impossible_hello_is_refused(bench: Bench, changes: dict[str, object]) -> None:
    bench.send(wire.encode(hello(**changes)))
    (reply,) = bench.replies()
    assert isinstance(reply, wire.Refused)


def test_sessions_and_runs_beyond_the_limit_are_refused_and_the_first_go_on(bench: Bench) -> None:
    for session in range(50):
        bench.send(wire.encode(hello(session=session, run_id=f"r{session}")))
    refused = [reply for reply in bench.replies() if isinstance(reply, wire.Refused)]
    assert len(refused) == 46
    assert len(list((bench.store.directory / "runs").glob("*.sqlite"))) == 4


def let_all_count_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sessions, open_journals):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)


def test_a_sidecar_that_serves_for_months_makes_room_for_new_runs_and_takes_up_old_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are on what is there at once: here 4 runs and 8 processes."""
    let_all_count_as_idle(monkeypatch)
    sessions = {session: f"r{session // 2}" for session in range(40)}
    for session, run_id in sessions.items():
        bench.send(wire.encode(hello(session=session, run_id=run_id)))
        bench.send(frame(0, 3, session=session, run_id=run_id))
    assert bench.telemetry.events_total == 120
    assert len(bench.intake.journals()) == 4
    assert bench.telemetry.streams <= 8
    bench.replies()
    bench.send(frame(3, 2, session=0, run_id="r0"))
    assert bench.replies() == [wire.WantHello(0)]
    bench.send(wire.encode(hello(session=0, run_id="r0")))
    bench.send(frame(3, 2, session=0, run_id="r0"))
    assert bench.replies() == [wire.Ack(0, 3), wire.Ack(0, 5)]
    assert bench.telemetry.frames_rejected_total == {}


def test_who_waits_for_an_acknowledgement_is_not_forgotten_for_a_newcomer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_all_count_as_idle(monkeypatch)
    for session in range(4):
        bench.send(wire.encode(hello(session=session, run_id=f"r{session}")))
        bench.send(frame(0, 1, session=session, run_id=f"r{session}"))
    for session in range(4):  # All in one round: duplicates of three, news of one, and a fifth run.
        bench.intake._take(b"peer", [frame(session // 3, 1, session=session, run_id=f"r{session}")])
    bench.intake._take(b"peer", [wire.encode(hello(session=99, run_id="r99"))])
    bench.intake.commit()
    assert bench.telemetry.events_total == 5
    assert bench.telemetry.frames_rejected_total == {"hello_refused": 1}


def test_a_process_restarted_more_often_than_processes_may_be_there_at_once_is_heard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_all_count_as_idle(monkeypatch)
    for session in range(20):
        bench.send(wire.encode(hello(session=session)))
        bench.send(frame(0, 1, session=session))
    assert bench.telemetry.events_total == 20


def test_one_session_cannot_speak_for_another_run(bench: Bench) -> None:
    bench.send(wire.encode(hello()))
    bench.send(wire.encode(hello(run_id="other")))
    bench.send(frame(0, 3, run_id="other"))
    assert bench.telemetry.frames_rejected_total == {"hello_refused": 1, "impossible_frame": 1}


hostile = st.one_of(
    st.binary(max_size=400),
    st.binary(max_size=400).map(lambda tail: wire.PREFIX + tail),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=10,
    ).map(lambda value: wire.PREFIX + msgspec.msgpack.encode(value)),
    st.dictionaries(
        st.sampled_from(["type", "run_id", "rank", "session", "first_seq", "oldest_seq", "records", "config"]),
        st.one_of(
            st.sampled_from(["frame", "hello", "r", 7, 0, -1, 2**63 - 1, [b"x"], [], {}]), st.integers(-(2**63), 2**63)
        ),
    ).map(lambda value: wire.PREFIX + msgspec.msgpack.encode(value)),
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.lists(hostile, min_size=1, max_size=3), min_size=1, max_size=5))
def test_no_bytes_end_the_intake(bench: Bench, messages: list[list[bytes]]) -> None:
    for parts in messages:
        bench.intake._take(b"peer", parts)
    bench.intake.commit()


def test_after_all_that_the_good_stream_still_gets_through(bench: Bench) -> None:
    rng = random.Random(5)
    bench.send(wire.encode(hello()))
    for index in range(30):
        bench.send(rng.randbytes(rng.randrange(600)))
        bench.send(wire.PREFIX + rng.randbytes(50), b"second frame")
        bench.send(frame(index, 1))
    assert bench.replies()[-1] == wire.Ack(7, 30)


def test_a_200_mb_frame_costs_its_sender_the_connection_and_us_nothing(bench: Bench) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(str(bench.path))
    raw.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31))
    raw.sendall(b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER")
    raw.sendall(b"\x02" + struct.pack(">Q", 200 * 2**20))
    bench.rounds(3)
    raw.settimeout(5)
    while raw.recv(4096):  # The greeting, and then the end: the connection was cut.
        pass
    raw.close()
    bench.send(wire.encode(hello()))
    assert bench.replies() == [wire.Ack(7, 0)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", b"\x00" * 64, b"\xff" * 4096])
def test_other_protocols_and_silent_peers_do_no_harm(bench: Bench, greeting: bytes) -> None:
    peers = []
    for _ in range(20):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(str(bench.path))
        raw.sendall(greeting)
        peers.append(raw)
    bench.send(wire.encode(hello()))
    assert bench.replies() == [wire.Ack(7, 0)]
    for raw in peers:
        raw.close()
