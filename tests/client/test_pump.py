"""The pump's side of the protocol, with a socket that records, and a clock of its own."""

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

import sidecar
from sidecar import ring as rings
from sidecar import wire
from sidecar.client import pump as pumps
from sidecar.client.pump import Pump

TICK = pumps.TICK_SECONDS
EVENT = b"x" * 1000


class Socket:
    """What the pump sends is kept; what it is to receive is put in by the test."""

    def __init__(self) -> None:
        self.sent: list[wire.Hello | wire.Frame] = []
        self.answers: deque[bytes] = deque()

    def send(self, message: bytes, flags: int) -> None:
        self.sent.append(wire.decode_from_trainer(message))

    def recv(self, flags: int) -> bytes:
        if not self.answers:
            raise zmq.Again
        return self.answers.popleft()

    def take(self) -> list[wire.Hello | wire.Frame]:
        sent, self.sent = self.sent, []
        return sent


class Bench:
    def __init__(self) -> None:
        self.ring = rings.create_in_memory(1 << 20)
        self.hello = wire.Hello(run_id="r", rank=0, session=7, time_ns=1, mono_ns=1, project="p")
        self.pump = Pump(self.ring, threading.Lock(), self.hello, "ipc://nowhere", lambda: None)
        self.socket = Socket()
        self.now = 100.0

    def emit(self, count: int) -> None:
        for _ in range(count):
            self.ring.append(EVENT)

    def answer(self, reply: wire.Reply) -> None:
        self.socket.answers.append(wire.encode(reply))

    def tick(self, seconds: float = TICK) -> list[wire.Hello | wire.Frame]:
        """What the pump sends in its next tick, ``seconds`` after the one before."""
        self.now += seconds
        self.pump._tick(self.socket, self.now)  # type: ignore[arg-type]
        return self.socket.take()

    def connect(self) -> None:
        assert self.tick() == [self.hello]
        self.answer(wire.Ack(7, 0))
        assert self.tick() == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.connect()
    yield made
    made.ring.close()


def first_seqs(frames: list[Any]) -> list[int]:
    return [frame.first_seq for frame in frames]


def test_a_sidecar_that_takes_a_second_and_a_half_to_acknowledge_is_sent_everything_once(bench: Bench) -> None:
    late: deque[int] = deque([0, 0, 0])
    for step in range(40):
        bench.emit(1)
        assert first_seqs(bench.tick(0.5)) == [step]
        late.append(step + 1)
        bench.answer(wire.Ack(7, late.popleft()))
    assert bench.ring.tail_seq == 36


def test_what_a_silent_sidecar_has_not_acknowledged_is_sent_again_once_it_answers(bench: Bench) -> None:
    bench.emit(300)
    assert len(bench.tick()) > 2
    sent = [message for _ in range(5) for message in bench.tick(0.5)]
    assert sent == [bench.hello]
    bench.answer(wire.Ack(7, 100))
    again: list[Any] = bench.tick()
    assert first_seqs(again)[0] == 98  # Frames of 49 events: the third was not acknowledged whole.
    assert sum(len(frame.records) for frame in again) == 202


def test_several_requests_to_go_back_are_followed_once(bench: Bench) -> None:
    bench.emit(100)
    count = len(bench.tick())
    for _ in range(count):
        bench.answer(wire.Resend(7, 0))
    assert len(bench.tick()) == count
    bench.answer(wire.Resend(7, 0))
    assert bench.tick(pumps.BACKLOG_TICK_SECONDS) == []


@pytest.mark.parametrize(
    ("events", "rest"), [(0, TICK), (100, TICK), (300, pumps.BACKLOG_TICK_SECONDS), (500, 0.0), (1000, 0.0)]
)
def test_a_pump_rests_the_less_the_more_waits_and_not_at_all_when_half_of_the_ring_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, events: int, rest: float
) -> None:
    monkeypatch.setattr(pumps, "FRAMES_PER_TICK_MAX", 4)
    bench.emit(events)
    assert len(bench.tick()) <= 4
    bench.emit(events // 4)
    assert bench.pump._seconds_to_tick() == rest
    bench.pump._flush_until = bench.now + 10.0
    assert bench.pump._seconds_to_tick() == min(rest, pumps.FLUSH_TICK_SECONDS)


@pytest.mark.parametrize(("seconds_left", "rest"), [(100.0, pumps.GREETING_TICK_SECONDS), (-1.0, pumps.HELLO_SECONDS)])
def test_a_pump_looks_often_for_the_first_answer_but_not_for_ever(seconds_left: float, rest: float) -> None:
    bench = Bench()
    bench.pump._greeting_until = time.monotonic() + seconds_left
    bench.tick()
    assert bench.pump._seconds_to_tick() == rest
    bench.answer(wire.Ack(7, 0))
    assert bench.tick() == []
    assert bench.pump._seconds_to_tick() == TICK
    bench.ring.close()


def test_a_pump_whose_window_is_full_rests_until_there_may_be_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "FRAMES_IN_FLIGHT_MAX", 8)
    bench.emit(1000)
    bench.tick()
    assert bench.pump._seconds_to_tick() == pumps.BACKLOG_TICK_SECONDS


def test_a_pump_that_is_asked_sends_what_it_holds_once_and_says_where_it_holds_nothing(bench: Bench) -> None:
    bench.answer(wire.Fetch(7))
    (nothing,) = bench.tick(0.0)
    assert isinstance(nothing, wire.Frame)
    assert (nothing.first_seq, nothing.records) == (0, [])
    bench.emit(3)
    bench.answer(wire.Fetch(7))
    (held,) = bench.tick(0.0)
    assert isinstance(held, wire.Frame)
    assert len(held.records) == 3
    assert bench.tick(0.0) == []
    bench.answer(wire.Fetch(7))
    (nothing,) = bench.tick(0.0)
    assert isinstance(nothing, wire.Frame)
    assert (nothing.first_seq, nothing.oldest_seq, nothing.records) == (3, 0, [])


def test_a_pump_that_hears_nothing_lets_a_sidecar_that_was_started_since_know_of_it(bench: Bench) -> None:
    """Training may make no step for minutes, or never again."""
    assert bench.tick(0.9 * TICK) == []
    (nothing,) = bench.tick(0.2 * TICK)
    assert isinstance(nothing, wire.Frame)
    assert nothing.records == []
    bench.answer(wire.WantHello(7))
    assert bench.tick(0.0) == [bench.hello]
    bench.answer(wire.Ack(7, 0))
    assert bench.tick(0.0) == []
    for _ in range(5):
        bench.answer(wire.Fetch(7))
        assert len(bench.tick(0.5 * TICK)) == 1  # Who is asked needs no reminding.


@pytest.mark.parametrize("bytes_", [b"TS\x02", wire.PREFIX + msgspec.msgpack.encode(["kind of tomorrow", 7, 1])])
def test_what_a_newer_sidecar_says_beyond_what_we_know_is_passed_over(bench: Bench, bytes_: bytes) -> None:
    bench.emit(1)
    bench.socket.answers.append(bytes_)
    assert len(bench.tick()) == 1
    bench.pump._flush_until = bench.now + 100.0
    bench.tick(0.0)
    assert not bench.pump._idle.is_set()
    bench.answer(wire.Ack(7, 1))
    bench.tick(0.0)
    assert bench.pump._idle.is_set()


def test_what_answers_in_another_language_is_asked_seldom_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    said = []
    for _ in range(8):
        said += bench.tick()
        bench.socket.answers.append(b"HTTP/1.1 400 Bad Request")
    assert said == [bench.hello, bench.hello]
    assert [record.message for record in caplog.records] == [
        "sidecar: what answers at ipc://nowhere cannot be understood: expected protocol version 1, got another protocol"
    ]
    bench.ring.close()


def test_a_flush_ends_with_the_acknowledgement_not_with_a_tick(far: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks of a node flush at once. While each looked 200 times a second, 64 of them kept two cores busy."""
    monkeypatch.setattr(pumps, "FLUSH_TICK_SECONDS", 3600.0)
    far.run.step(0, loss=1.0)
    flushed = threading.Thread(target=far.run._emitter.pump.flush, args=(30.0,))
    flushed.start()
    assert len(far.hear().records) == 1
    far.say(wire.Ack(far.session, 1))
    flushed.join(10.0)
    assert not flushed.is_alive()


def test_an_acknowledgement_of_what_was_never_sent_frees_nothing(bench: Bench) -> None:
    bench.emit(10)
    bench.tick()
    bench.answer(wire.Ack(7, 11))
    bench.tick()
    assert bench.ring.tail_seq == 0


class Sidecar:
    """The other end of a run's socket. The run's pump has connected, and the clock wakes it no more."""

    def __init__(self, run: Any, router: Any) -> None:
        assert router.poll(10_000)
        self.run, self._router = run, router
        self._peer, _ = router.recv_multipart()
        self.session = run._emitter.pump._hello.session
        self.say(wire.Ack(self.session, 0))
        while not run._emitter.pump.connected or router.poll(50):  # On a busy machine it may have said Hello twice.
            if router.poll(0):
                router.recv_multipart()

    def say(self, reply: wire.Reply) -> None:
        self._router.send_multipart([self._peer, wire.encode(reply)])

    def hear(self, seconds: float = 10.0) -> Any:
        """None: nothing came."""
        if not self._router.poll(1000 * seconds):
            return None
        self._peer, message = self._router.recv_multipart()
        return wire.decode_from_trainer(message)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sidecar]:
    monkeypatch.setattr(pumps, "TICK_SECONDS", 3600.0)
    monkeypatch.setenv("SIDECAR_RING_MB", "1")
    endpoint = f"ipc://{tmp_path}/socket"
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    run = sidecar.init("tests", endpoint=endpoint)
    try:
        yield Sidecar(run, router)
    finally:
        run.finish(timeout_seconds=0)
        context.destroy(linger=0)


def test_events_that_fill_half_of_the_ring_between_two_ticks_are_sent_before_they_are_overwritten(far: Sidecar) -> None:
    while not far.run._emitter.ring.is_half_full:
        assert far.hear(0.0) is None
        far.run.text("filler", "x" * 10_000)
    assert isinstance(far.hear(), wire.Frame)


def test_a_sleeping_pump_sends_when_it_is_asked_and_takes_acknowledgements_without_sending(far: Sidecar) -> None:
    ring = far.run._emitter.ring
    far.run.step(0, loss=1.0)
    assert far.hear(0.05) is None
    ring._alert = None
    far.say(wire.Fetch(far.session))
    assert len(far.hear().records) == 1
    while ring._alert is None:  # Set as the pump lies down again. Before that it would send the next step, too.
        time.sleep(0.001)
    far.run.step(1, loss=1.0)
    far.say(wire.Ack(far.session, 1))
    assert far.hear(0.05) is None
    assert far.run._emitter.ring.tail_seq == 1
    far.say(wire.Fetch(far.session))
    assert far.hear().first_seq == 1
    far.say(wire.Resend(far.session, 1))
    assert far.hear().first_seq == 1


def test_a_pump_goes_on_after_a_fault_that_passes(
    far: Sidecar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pumps, "FAULT_SECONDS", 0.01)
    read, left = rings.Ring.read, [1, 2]

    def read_or_fail(*given: Any, **named: Any) -> Any:
        if left:
            left.pop()
            raise MemoryError
        return read(*given, **named)

    monkeypatch.setattr(rings.Ring, "read", read_or_fail)
    far.run.step(0, loss=1.0)
    far.say(wire.Fetch(far.session))
    while isinstance(heard := far.hear(), wire.Hello):  # Over another connection each time.
        far.say(wire.Ack(far.session, 0))
    assert left == []
    assert len(heard.records) == 1
    assert len(caplog.records) == 1


def test_a_pump_that_has_ended_can_be_woken_and_keeps_no_descriptors(far: Sidecar) -> None:
    pump = far.run._emitter.pump
    fds = {pump._waker.fileno(), pump._waker._writer}
    assert fds <= open_descriptors()
    far.run.finish(timeout_seconds=0)
    pump._wake()
    assert not fds & open_descriptors()


def open_descriptors() -> set[int]:
    """Pipes only: other numbers may be taken again at once."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if is_pipe(int(fd))}


def is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False
