"""Events over tcp: encrypted, only from trainers on the list, never in the clear."""

import errno
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import zmq

import sidecar
from benchmarks.proxy import Proxy
from sidecar import wire
from sidecar.client import pump
from sidecar.curve import create_keys
from sidecar.errors import UserError
from sidecar.intake import Intake
from sidecar.rendezvous import endpoint_key, private_directory, ring_directories
from sidecar.replay import replay_rings
from sidecar.ring import create
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from tests.delivery.conftest import rings_of
from tests.delivery.processes import emitted, journaled_steps, kill, start, wait_until


@pytest.fixture
def tcp_endpoint() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def remove_rings(endpoint: str) -> None:
    for ring in rings_of(endpoint):
        ring.unlink()


def test_tcp_without_keys_is_refused_by_the_sidecar_on_loopback_too(tcp_endpoint: str, tmp_path: Path) -> None:
    intake = Intake(Store(tmp_path), Telemetry(), streams_max=4, runs_max=4)
    with pytest.raises(UserError, match="needs keys"):
        intake.bind(tcp_endpoint)
    intake.close()


@pytest.mark.parametrize("content", ["", "garbage", 'metadata\ncurve\n    public-key = "x"\n'])
def test_a_secret_key_that_cannot_be_used_is_refused(tcp_endpoint: str, tmp_path: Path, content: str) -> None:
    create_keys(tmp_path / "keys")
    (tmp_path / "keys" / "server.key_secret").write_text(content)
    threads = threading.active_count()
    intake = Intake(Store(tmp_path), Telemetry(), streams_max=4, runs_max=4)
    with pytest.raises(UserError, match="cannot be used"):
        intake.bind(tcp_endpoint)
    intake.close()
    assert threading.active_count() <= threads


def test_a_secret_key_that_others_can_read_is_refused(tcp_endpoint: str, tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    (tmp_path / "keys" / "server.key_secret").chmod(0o644)
    intake = Intake(Store(tmp_path), Telemetry(), streams_max=4, runs_max=4)
    with pytest.raises(UserError, match="others can read"):
        intake.bind(tcp_endpoint)
    intake.close()


def test_a_listed_trainer_delivers_over_tcp_also_after_the_sidecar_was_killed(
    tcp_endpoint: str, tmp_path: Path
) -> None:
    server_key, secret = create_keys(tmp_path / "data" / "keys")
    keys = {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(secret)}
    intake = start("intake", tcp_endpoint, tmp_path / "data")
    trainer = start("train", tcp_endpoint, "r", tmp_path / "counter", 4000, 0.0003, "finish", env=keys)
    assert wait_until(lambda: (tmp_path / "counter").exists())
    kill(intake)
    intake = start("intake", tcp_endpoint, tmp_path / "data")
    assert trainer.wait(60) == 0
    kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(4000))


@pytest.mark.parametrize("fault", ["no_keys", "stranger"])
def test_a_trainer_that_is_not_listed_trains_on_and_delivers_nothing(
    tcp_endpoint: str, tmp_path: Path, fault: str
) -> None:
    server_key, _ = create_keys(tmp_path / "data" / "keys")
    _, stranger = create_keys(tmp_path / "elsewhere")
    keys = {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(stranger)} if fault == "stranger" else {}
    intake = start("intake", tcp_endpoint, tmp_path / "data")
    trainer = start("train", tcp_endpoint, "r", tmp_path / "counter", 50, 0, "wait", env=keys)
    assert wait_until(lambda: (tmp_path / "counter").exists() and emitted(tmp_path / "counter") == 50)
    time.sleep(1.5)
    assert not Store(tmp_path / "data").path("r").exists()
    kill(intake)
    kill(trainer)
    remove_rings(tcp_endpoint)


def test_plain_zmq_talks_to_a_wall(tcp_endpoint: str, tmp_path: Path) -> None:
    create_keys(tmp_path / "keys")
    store = Store(tmp_path)
    store.prepare()
    telemetry = Telemetry()
    intake = Intake(store, telemetry, streams_max=4, runs_max=4)
    intake.bind(tcp_endpoint)
    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    plain.connect(tcp_endpoint)
    hello = wire.Hello(run_id="r", rank=0, session=1, time_ns=1, mono_ns=1, project="p")
    plain.send(wire.encode(hello))
    for _ in range(5):
        intake.round(0.05)
    assert not list(intake._journals)
    context.destroy(linger=0)
    intake.close()


def test_the_secret_keys_are_readable_by_us_alone(tmp_path: Path) -> None:
    _, secret = create_keys(tmp_path / "keys")
    listing = subprocess.run(["find", tmp_path, "-name", "*secret", "-perm", "/077"], capture_output=True, check=True)
    assert listing.stdout == b""
    assert secret.exists()


class Remote:
    """A sidecar of another host, which sees no rings of this one."""

    def __init__(self, endpoint: str, folder: Path, streams_max: int = 4) -> None:
        server_key, secret = create_keys(folder / "keys")
        self.keys = {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(secret)}
        self.store, self.telemetry = Store(folder), Telemetry()
        self.store.prepare()
        self._intake = Intake(self.store, self.telemetry, streams_max=streams_max, runs_max=4)
        self._intake.bind(endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Remote":
        self._thread.start()
        return self

    def _work(self) -> None:
        while not self._stop.is_set():
            self._intake.round(0.05)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._intake.close()


def leave_ring(endpoint: str, name: str, hello: bytes, steps: range, session: int = 7) -> None:
    """As a killed trainer of this host leaves it, whose events before ``steps`` were acknowledged."""
    folder = private_directory(ring_directories()[0])
    name = f"{endpoint_key(endpoint)}-{name}"
    ring = create(folder, name, hello=hello, session=session, rank=0, capacity=1 << 18)
    for step in range(steps.stop):
        ring.append(wire.encode_event(wire.Step(1, 1, step)))
        if step + 1 == steps.start:
            ring.release(ring.head, ring.head_seq)
    ring.close()


def hello_of(session: int) -> bytes:
    return wire.encode(wire.Hello(run_id="r", rank=0, session=session, time_ns=1, mono_ns=1, project="p"))


def test_a_damaged_ring_keeps_no_other_here(tcp_endpoint: str, tmp_path: Path) -> None:
    leave_ring(tcp_endpoint, "a", b"junk", range(3))
    leave_ring(tcp_endpoint, "b", hello_of(7), range(300))
    with Remote(tcp_endpoint, tmp_path) as remote:
        assert replay_rings(tcp_endpoint, remote.keys) == 1
    assert [ring.name[-6:] for ring in rings_of(tcp_endpoint)] == ["a.ring"]
    assert journaled_steps(tmp_path, "r") == list(range(300))
    remove_rings(tcp_endpoint)


@pytest.mark.parametrize("steps", [range(5, 9), range(5, 5)])
def test_what_a_sidecar_that_lost_its_journal_can_never_get_is_declared(
    tcp_endpoint: str, tmp_path: Path, steps: range
) -> None:
    leave_ring(tcp_endpoint, "a", hello_of(7), steps)
    with Remote(tcp_endpoint, tmp_path) as remote:
        assert replay_rings(tcp_endpoint, remote.keys) == 1
    assert rings_of(tcp_endpoint) == []
    assert journaled_steps(tmp_path, "r") == list(steps)
    assert remote.telemetry.events_lost_total == {"ring_overwritten": 5}


def test_a_refusal_ends_the_attempt_and_the_ring_stays(tcp_endpoint: str, tmp_path: Path) -> None:
    leave_ring(tcp_endpoint, "a", hello_of(7), range(3))
    with Remote(tcp_endpoint, tmp_path, streams_max=0) as remote:
        assert replay_rings(tcp_endpoint, remote.keys, timeout_seconds=3_600.0) == 0
    assert len(rings_of(tcp_endpoint)) == 1
    remove_rings(tcp_endpoint)


def test_a_process_without_descriptors_is_not_ended_by_the_attempt(
    tcp_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_ring(tcp_endpoint, "a", hello_of(7), range(3))
    given = os.open

    def none_left(path: str, *options: int) -> int:
        if path == os.devnull:
            raise OSError(errno.EMFILE, "Too many open files")
        return given(path, *options)

    monkeypatch.setattr(os, "open", none_left)
    monkeypatch.setattr(zmq, "Context", lambda: pytest.fail("libzmq would have ended this process"))
    assert replay_rings(tcp_endpoint, {}) == 0
    assert len(rings_of(tcp_endpoint)) == 1
    remove_rings(tcp_endpoint)


def test_the_tail_of_a_dead_trainer_travels_to_a_sidecar_on_another_host(tcp_endpoint: str, tmp_path: Path) -> None:
    remote = Remote(tcp_endpoint, tmp_path / "data")
    trainer = start("train", tcp_endpoint, "r", tmp_path / "counter", 3000, 0, "wait", env=remote.keys)
    assert wait_until(lambda: (tmp_path / "counter").exists() and emitted(tmp_path / "counter") == 3000)
    kill(trainer)
    assert len(rings_of(tcp_endpoint)) == 1
    with remote:
        assert replay_rings(tcp_endpoint, remote.keys) == 1
    assert rings_of(tcp_endpoint) == []
    assert journaled_steps(tmp_path / "data", "r") == list(range(3000))


def test_a_connection_that_dies_without_a_word_is_made_anew(
    tcp_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall or an address translator that has forgotten it: TCP itself notices after a quarter of an hour."""
    monkeypatch.setattr(pump, "HEARTBEAT_MILLISECONDS", 100)
    monkeypatch.setattr(pump, "SILENCE_SECONDS_MIN", 0.1)
    monkeypatch.setattr(pump, "SILENCE_SECONDS_MAX", 0.1)
    network = Proxy(int(tcp_endpoint.rpartition(":")[2]))
    with Remote(tcp_endpoint, tmp_path) as remote:
        for name, value in remote.keys.items():
            monkeypatch.setenv(name, value)
        run = sidecar.init("p", run_id="r", endpoint=f"tcp://127.0.0.1:{network.port}")
        run.step(0)
        assert run._emitter.pump.flush(20.0)
        network.forget()
        run.step(1)
        assert run._emitter.pump.flush(20.0)
        run.finish()
    network.close()
    assert journaled_steps(tmp_path, "r") == [0, 1]
