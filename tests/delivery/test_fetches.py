"""Training processes are asked for what they hold: all together, once a second, and when somebody reads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from sidecar import fetches, wire
from sidecar.fetches import ANSWER_SECONDS_MAX, FETCH_SECONDS, Fetches
from sidecar.intake import Intake
from sidecar.journal_reader import JournalReader
from sidecar.store import Store
from sidecar.submissions import READINGS_SECONDS_MAX
from sidecar.telemetry import Telemetry


def test_all_are_asked_once_a_second_but_none_that_owes_an_answer() -> None:
    asker = Fetches(lambda: None)
    assert asker.are_due(100.0)
    assert asker.ask(100.0, [1, 2]) == [1, 2]
    assert not asker.are_due(100.0 + 0.9 * FETCH_SECONDS)
    assert asker.seconds_to_due(100.0) == FETCH_SECONDS
    asker.answered(1)
    assert asker.are_due(100.0 + FETCH_SECONDS)
    assert asker.ask(100.0 + FETCH_SECONDS, [1, 2, 3]) == [1, 3]
    assert asker.ask(100.0 + 2 * FETCH_SECONDS, [4]) == [4]
    assert asker.ask(100.0 + 3 * FETCH_SECONDS, [1, 2, 3, 4]) == [1, 2, 3]  # The forgotten owe nothing.


def test_a_reader_waits_for_answers_but_not_for_who_was_silent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "ANSWER_SECONDS_MAX", 30.0)
    woken = threading.Event()
    asker = Fetches(woken.set)
    asker.ask(100.0, [1, 2])
    reader = threading.Thread(target=asker.fetch, daemon=True)
    reader.start()
    assert woken.wait(10.0)
    assert asker.are_due(100.1)
    asker.answered(1)
    assert asker.ask(200.0, [1, 2]) == [1]  # 2 was asked long ago.
    asker.settle(200.1)
    assert reader.is_alive()
    asker.answered(1)
    asker.settle(200.1)
    reader.join(10.0)
    assert not reader.is_alive()


def test_a_reader_goes_on_without_an_answer_that_takes_too_long() -> None:
    Fetches(lambda: None).fetch()


class Trainer:
    def __init__(self, session: int, endpoint: str) -> None:
        self.session, self._endpoint = session, endpoint
        self.connect()
        self.say(wire.Hello(run_id="r", rank=session, session=session, time_ns=1, mono_ns=1, project="p",
                            answers_fetch=True))  # fmt: skip

    def connect(self) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(self._endpoint)

    def say(self, message: wire.Hello | wire.Frame) -> None:
        self.socket.send(wire.encode(message))

    def send(self, first_seq: int, count: int = 1) -> None:
        records = [wire.encode_event(wire.Step(1, 1, first_seq + number)) for number in range(count)]
        self.say(wire.Frame("r", self.session, self.session, first_seq, 0, records))

    def hear(self) -> wire.Reply:
        assert self.socket.poll(10_000)
        return wire.decode_from_sidecar(self.socket.recv())


class Scene:
    """An intake whose rounds a thread takes, and two trainers."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.store.prepare()
        self.intake = Intake(self.store, Telemetry(), streams_max=8, runs_max=4)
        endpoint = f"ipc://{folder}/s"
        self.intake.bind(endpoint)
        self.commits: list[str] = []
        self.intake.on_committed = self.commits.append
        self._stop = threading.Event()
        self._rounds = threading.Thread(target=self._take_rounds, daemon=True)
        self._rounds.start()
        self.trainers = [Trainer(session, endpoint) for session in (1, 2)]
        for trainer in self.trainers:
            assert isinstance(trainer.hear(), wire.Ack)

    def _take_rounds(self) -> None:
        while not self._stop.is_set():
            self.intake.round()

    def fetch(self) -> threading.Thread:
        reader = threading.Thread(target=self.intake.fetch, daemon=True)
        reader.start()
        return reader

    def let_rest(self) -> None:
        """Until the round is over in which the trainers were answered last, and nothing is under way."""
        reader = self.fetch()
        for trainer in self.trainers:
            assert trainer.hear() == wire.Fetch(trainer.session)
            trainer.send(0, 0)
        reader.join(10.0)
        assert not reader.is_alive()

    def close(self) -> None:
        self._stop.set()
        self.intake.wake()
        self._rounds.join(10.0)
        for trainer in self.trainers:
            trainer.socket.close(0)
        self.intake.close()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(fetches, "FETCH_SECONDS", 3600.0)
    monkeypatch.setattr(fetches, "ANSWER_SECONDS_MAX", 30.0)
    made = Scene(tmp_path)
    yield made
    made.close()


def test_what_is_fetched_is_committed_before_the_reader_goes_on(scene: Scene) -> None:
    reader = scene.fetch()
    for trainer in scene.trainers:
        assert trainer.hear() == wire.Fetch(trainer.session)
    scene.trainers[0].send(0, 3)
    assert scene.trainers[0].hear() == wire.Ack(1, 3)
    assert reader.is_alive()
    scene.trainers[1].send(0, 0)  # Nothing: needs no acknowledgement.
    reader.join(10.0)
    assert not reader.is_alive()
    journal = JournalReader(scene.store.path("r"))
    assert sum(record.rank >= 0 for record in journal.records()) == 3
    journal.close()
    assert not scene.trainers[1].socket.poll(0)


def test_who_comes_back_is_asked_again(scene: Scene) -> None:
    first, second = scene.trainers
    scene.fetch()
    first.hear(), second.hear()
    first.send(0)
    assert first.hear() == wire.Ack(1, 1)
    scene.fetch()
    assert first.hear() == wire.Fetch(1)
    assert not second.socket.poll(50)  # It owes an answer.
    second.say(wire.Hello(run_id="r", rank=2, session=2, time_ns=1, mono_ns=1, project="p", answers_fetch=True))
    assert second.hear() == wire.Ack(2, 0)
    scene.fetch()
    assert second.hear() == wire.Fetch(2)


def test_who_sends_over_a_new_connection_is_asked_there(scene: Scene) -> None:
    first, _ = scene.trainers
    first.socket.close(0)
    first.connect()
    first.send(0)
    assert first.hear() == wire.Ack(1, 1)
    scene.fetch()
    assert first.hear() == wire.Fetch(1)


def test_a_client_that_does_not_know_how_to_answer_is_not_asked(scene: Scene) -> None:
    first, second = scene.trainers
    second.say(wire.Hello(run_id="r", rank=2, session=2, time_ns=1, mono_ns=1, project="p"))
    assert second.hear() == wire.Ack(2, 0)
    scene.fetch()
    assert first.hear() == wire.Fetch(1)
    assert not second.socket.poll(50)


def test_readings_wait_for_a_batch_to_ride_on_but_not_for_ever(scene: Scene) -> None:
    scene.let_rest()
    scene.intake.submit("r", wire.Hardware(1, 1))
    scene.intake.wake()
    time.sleep(0.05)
    assert scene.commits == []
    scene.trainers[0].send(0)
    assert scene.trainers[0].hear() == wire.Ack(1, 1)
    journal = JournalReader(scene.store.path("r"))
    assert {type(record.event) for record in journal.records()} == {wire.Step, wire.Hardware}
    journal.close()
    scene.intake.submit("r", wire.Hardware(2, 2))
    later = time.monotonic() + READINGS_SECONDS_MAX
    assert not scene.intake._submissions.are_due(later - 1.0)
    assert scene.intake._submissions.are_due(later)
    assert ANSWER_SECONDS_MAX < READINGS_SECONDS_MAX
