"""The pump's side of the protocol, with a socket that records, and a clock of its own."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

    def answer(self, reply: wire.Ack | wire.Resend) -> None:
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


def test_a_sidecar_that_takes_three_ticks_to_acknowledge_is_sent_everything_once(bench: Bench) -> None:
    late: deque[int] = deque([0, 0, 0])
    for step in range(40):
        bench.emit(1)
        assert first_seqs(bench.tick()) == [step]
        late.append(step + 1)
        bench.answer(wire.Ack(7, late.popleft()))
    assert bench.ring.tail_seq == 36


def test_what_a_silent_sidecar_has_not_acknowledged_is_sent_again_once_it_answers(bench: Bench) -> None:
    bench.emit(300)
    assert len(bench.tick()) > 2
    sent = [message for _ in range(5) for message in bench.tick()]
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
    ("events", "rest"), [(0, TICK), (100, TICK), (300, pumps.BACKLOG_TICK_SECONDS), (500, None), (1000, None)]
)
def test_a_pump_rests_the_less_the_more_waits_and_not_at_all_when_half_of_the_ring_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, events: int, rest: float | None
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(bench.pump._sleeper, "wait", rests.append)
    monkeypatch.setattr(pumps, "FRAMES_PER_TICK_MAX", 4)
    bench.emit(events)
    assert len(bench.tick()) <= 4
    bench.emit(events // 4)
    bench.pump._pause()
    assert rests == ([] if rest is None else [rest])


@pytest.mark.parametrize(("seconds_left", "rest"), [(100.0, pumps.GREETING_TICK_SECONDS), (-1.0, TICK)])
def test_a_pump_looks_often_for_the_first_answer_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, seconds_left: float, rest: float
) -> None:
    bench = Bench()
    rests: list[float] = []
    monkeypatch.setattr(bench.pump._sleeper, "wait", rests.append)
    bench.pump._greeting_until = time.monotonic() + seconds_left
    bench.tick()
    bench.pump._pause()
    bench.answer(wire.Ack(7, 0))
    assert bench.tick() == []
    bench.pump._pause()
    assert rests == [rest, TICK]
    bench.ring.close()


def test_a_pump_whose_window_is_full_rests_until_there_may_be_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(bench.pump._sleeper, "wait", rests.append)
    monkeypatch.setattr(pumps, "FRAMES_IN_FLIGHT_MAX", 8)
    bench.emit(1000)
    bench.tick()
    bench.pump._pause()
    assert rests == [pumps.BACKLOG_TICK_SECONDS]


def test_an_acknowledgement_of_what_was_never_sent_frees_nothing(bench: Bench) -> None:
    bench.emit(10)
    bench.tick()
    bench.answer(wire.Ack(7, 11))
    bench.tick()
    assert bench.ring.tail_seq == 0


def test_events_that_fill_half_of_the_ring_between_two_ticks_are_sent_before_they_are_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "TICK_SECONDS", 0.01)
    monkeypatch.setenv("SIDECAR_RING_MB", "1")
    endpoint = f"ipc://{tmp_path}/socket"
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    run = sidecar.init("tests", endpoint=endpoint)
    pump, asleep, wait = run._emitter.pump, threading.Event(), pumps._Sleeper.wait

    def sleep_long(sleeper: pumps._Sleeper, seconds: float) -> None:
        if pump.connected:
            asleep.set()
            seconds = 3600.0  # Nothing but the ring wakes it from now on.
        wait(sleeper, seconds)

    try:
        assert router.poll(10_000)
        peer, _ = router.recv_multipart()
        monkeypatch.setattr(pumps._Sleeper, "wait", sleep_long)
        router.send_multipart([peer, wire.encode(wire.Ack(pump._hello.session, 0))])
        assert asleep.wait(10)
        while router.poll(0):  # On a busy machine it may have said Hello twice.
            router.recv_multipart()
        while not run._emitter.ring.is_half_full:
            assert not router.poll(0)
            run.text("filler", "x" * 10_000)
        assert router.poll(10_000)
        assert isinstance(wire.decode_from_trainer(router.recv_multipart()[1]), wire.Frame)
    finally:
        run.finish(timeout_seconds=0)
        context.destroy(linger=0)


def test_waking_a_pump_that_is_awake_is_remembered_once() -> None:
    sleeper = pumps._Sleeper()
    sleeper.wake()
    sleeper.wake()
    sleeper.wait(3600.0)
    assert not sleeper._lock.acquire(blocking=False)
