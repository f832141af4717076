"""How long the intake waits when nothing arrives: until somebody wakes it, or the descriptors are to be counted."""

import threading
from pathlib import Path

import pytest

from sidecar import descriptors, fetches, listener
from sidecar.intake import Intake
from sidecar.listener import Listener
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from sidecar.waker import Waker

FOR_EVER = 3600.0


def test_a_wait_for_trainers_ends_when_it_is_woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.prepare()
    intake = Intake(store, Telemetry(), streams_max=4, runs_max=4)
    intake.bind(f"ipc://{tmp_path}/s")
    monkeypatch.setattr(Listener, "seconds_to_check", lambda self, now: FOR_EVER)
    monkeypatch.setattr(fetches, "FETCH_SECONDS", FOR_EVER)
    waiting = threading.Thread(target=intake.round, args=(FOR_EVER,), daemon=True)
    waiting.start()
    intake.wake()
    waiting.join(30.0)
    assert not waiting.is_alive()
    assert not intake.round(0.0)
    intake.close()


def test_a_waker_forgets_how_often_it_was_woken() -> None:
    waker = Waker()
    for _ in range(100_000):  # More than a pipe holds.
        waker.wake()
    waker.clear()
    waker.clear()
    waker.wake()
    waker.close()


@pytest.mark.parametrize(("left", "seconds"), [
    (100 * listener.RESERVE_MAX, listener.CHECK_SECONDS_MAX),
    (5 * listener.RESERVE_MAX, 4 * listener.CHECK_SECONDS),  # As long as accepting four times the reserve takes.
    (listener.RESERVE_MAX + 1, listener.CHECK_SECONDS),
])  # fmt: skip
def test_descriptors_are_counted_the_more_often_the_fewer_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, seconds: float
) -> None:
    socket = descriptors.open_socket(11)
    made = Listener(socket, f"ipc://{tmp_path}/s")
    monkeypatch.setattr(descriptors, "left", lambda: int(left))
    assert made.seconds_to_check(100.0) == 0.0
    made.adjust(100.0)
    assert made.seconds_to_check(100.0) == pytest.approx(seconds)
    assert made.seconds_to_check(200.0) == 0.0
    socket.context.destroy(linger=0)
