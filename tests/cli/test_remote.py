"""``sidecar run`` with a sidecar on another host; the launch's own run found; the token in the banner."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Command, wait_until_ready

from sidecar import banner, launched, live, recovery, remote
from sidecar.config import Config, load
from sidecar.curve import create_keys
from sidecar.drain import drained
from sidecar.intake import Intake
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from tests.delivery import processes

LAUNCHER = Path(__file__).with_name("launch_as_if_remote.py")
TRAIN = "import os, sidecar; r = sidecar.init(project='p', run_id='{run}'); r.step(1, loss=1.0); {end}"
KEYS_MISSING = "SIDECAR_SERVER_KEY and SIDECAR_CLIENT_KEY"


@pytest.fixture
def endpoint() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    server_key, secret = create_keys(tmp_path / "data" / "keys")
    return {"SIDECAR_SERVER_KEY": server_key, "SIDECAR_CLIENT_KEY": str(secret)}


def launch(tmp_path: Path, endpoint: str, code: str, **environ: str) -> tuple[int, str]:
    root = LAUNCHER.parent.parent.parent
    own = {"SIDECAR_DIR": str(tmp_path / "here"), "PYTHONPATH": str(root), "SIDECAR_RING_MB": "1"}
    command = [sys.executable, str(LAUNCHER), "run", "--endpoint", endpoint, "--grace", "5", "--", sys.executable]
    env = os.environ | own | environ
    done = subprocess.run([*command, "-c", code], env=env, capture_output=True, text=True, timeout=90)
    return done.returncode, done.stderr


@contextlib.contextmanager
def far_intake(endpoint: str, directory: Path) -> Iterator[None]:
    """What a sidecar on another host is to this one: it listens, and sees no rings."""
    store, stop = Store(directory), threading.Event()
    store.prepare()
    intake = Intake(store, Telemetry(), streams_max=4, runs_max=4)
    intake.bind(endpoint, directory / "keys")
    rounds = threading.Thread(target=lambda: [intake.round(0.05) for _ in iter(stop.is_set, True)])
    rounds.start()
    try:
        yield
    finally:
        stop.set()
        rounds.join()
        intake.close()


def steps_of(sidecar: Command, run: str) -> list[int]:
    out, _ = sidecar("export", run).communicate(timeout=60)
    return [row["step"] for row in map(json.loads, out.splitlines()) if row["kind"] == "step"]


def test_a_run_for_a_remote_sidecar_starts_none_here_and_arrives_there(
    sidecar: Command, tmp_path: Path, endpoint: str, keys: dict[str, str]
) -> None:
    serving = sidecar("serve", "--endpoint", endpoint)
    wait_until_ready(tmp_path / "data")
    code, err = launch(tmp_path, endpoint, TRAIN.format(run="far", end="r.finish(); raise SystemExit(7)"), **keys)
    assert code == 7
    assert len(err.splitlines()) == 1
    assert endpoint in err
    assert not (tmp_path / "here" / "endpoints.json").exists()
    serving.send_signal(signal.SIGTERM)
    serving.communicate(timeout=30)
    assert steps_of(sidecar, "far") == [1]


def test_rings_of_dead_trainers_are_replayed_before_the_command_and_after_it(
    tmp_path: Path, endpoint: str, keys: dict[str, str]
) -> None:
    code, err = launch(tmp_path, endpoint, TRAIN.format(run="before", end="os._exit(9)"), **keys)
    assert code == 9
    assert "1 ring waits" in err
    with far_intake(endpoint, tmp_path / "data"):
        code, err = launch(tmp_path, endpoint, "pass", **keys)
        assert (code, "sent what 1 ended training process had left" in err) == (0, True), err
        launch(tmp_path, endpoint, TRAIN.format(run="after", end="os._exit(9)"), **keys)
        assert not list(recovery.rings_of(endpoint))
    assert processes.journaled_steps(tmp_path / "data", "before") == [1]
    assert processes.journaled_steps(tmp_path / "data", "after") == [1]


def test_a_remote_sidecar_without_keys_is_refused_before_the_command(tmp_path: Path, endpoint: str) -> None:
    code, err = launch(tmp_path, endpoint, "print('ran')")
    assert code == 2
    assert KEYS_MISSING in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("address", "far"),
    [("tcp://127.0.0.1:1", False), ("tcp://localhost:1", False), ("tcp://*:1", False), ("tcp://0.0.0.0:1", False),
     ("tcp://[::1]:1", False), ("ipc:///x", False), (None, False), ("tcp://192.0.2.7:1", True)],
)  # fmt: skip
def test_an_address_is_remote_when_no_interface_here_has_it(address: str | None, far: bool) -> None:
    assert remote.is_remote(address) is far


def test_a_name_that_cannot_be_resolved_is_taken_for_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert remote.is_remote("tcp://far-away:1")


def test_card_is_that_of_the_run_the_trainer_really_opened(sidecar: Command, tmp_path: Path) -> None:
    code = TRAIN.format(run="my-own", end="r.finish()")
    process = sidecar("run", "--run-id", "launched", "--", sys.executable, "-c", code)
    _, err = process.communicate(timeout=60)
    [line] = [line for line in err.splitlines() if line.startswith("run ")]
    assert process.returncode == 0
    assert "my-own" in line


def test_in_a_shared_sidecar_the_run_of_this_launch_is_found_and_no_other(
    sidecar: Command, tmp_path: Path, repository: Path
) -> None:
    sidecar("serve", "--endpoint", f"ipc://{tmp_path}/events")
    ready = wait_until_ready(tmp_path / "data")
    env = os.environ | {"SIDECAR_ENDPOINT": ready["events"], "PYTHONPATH": str(repository)}
    began = time.time_ns()
    for launch_id, run in (("one", "first"), ("two", "other"), ("one", "resumed")):
        code = TRAIN.format(run=run, end="r.finish()")
        subprocess.run([sys.executable, "-c", code], env=env | {"SIDECAR_LAUNCH_ID": launch_id}, check=True, timeout=60)
    assert launched.newest_run(tmp_path / "data", "one", began) == "resumed"
    assert launched.newest_run(tmp_path / "data", "two", began) == "other"
    assert launched.newest_run(tmp_path / "data", "three", began) is None
    assert launched.newest_run(tmp_path / "data", "one", time.time_ns() + 10**9) is None


def test_no_directory_means_no_run(tmp_path: Path) -> None:
    assert launched.newest_run(tmp_path / "nowhere", "x", 0) is None


@pytest.mark.parametrize(("shown", "wanted"), [(True, "/#token=a%2Fb%20c"), (False, "/#token=***")])
def test_the_page_with_a_token_is_given_whole_to_a_terminal_only(tmp_path: Path, shown: bool, wanted: str) -> None:
    config = Config(dir=str(tmp_path), token="a/b c", port=0)
    at = live.Live("http://127.0.0.1:8", "ipc:///x", 1)
    lines = banner.banner(config, at, "r", [], ours=True, environ={}, token=shown)
    assert lines[2].split()[1] == f"http://127.0.0.1:8{wanted}"
    assert ("a/b c" in str(lines)) is False


def test_fields_for_outlets_and_disks_are_settings() -> None:
    text = '[wandb]\nentity = "team"\n[tensorboard]\ndir = "/t"\n'
    config = load({}, {"SIDECAR_DISKS": "/data,/scratch"}, text).config
    assert (config.wandb_entity, config.tensorboard_dir, config.disks) == ("team", "/t", ("/data", "/scratch"))


def test_a_sink_that_has_not_started_or_does_not_know_what_it_lacks_is_not_drained() -> None:
    assert not drained({"sinks": {"wandb": {"state": "starting", "lag_events": 0}}})
    assert not drained({"sinks": {"wandb": {"state": "failing", "lag_events": None}}})
    assert drained({"sinks": {"wandb": {"state": "offline", "lag_events": 0}, "x": {"state": "disabled"}}})
