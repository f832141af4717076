"""Real wandb, online, against a server of ours that can fail in every way we know from the field."""

import getpass
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.wandb_server import KEY, WandbServer

from sidecar import wire
from sidecar.sinks import backoff, late, wandb_account, wandb_upstream
from sidecar.sinks import manager as manager_module
from sidecar.sinks.manager import SinkManager
from sidecar.snapshot import RunSummary
from sidecar.store import Store
from sidecar.telemetry import Telemetry

from .harness import FAST, Manager, Run, config, until

QUICK = {
    "wandb_internal": {
        "x_file_stream_transmit_interval": 1.0, "x_file_stream_retry_max": 1,
        "x_file_stream_retry_wait_min_seconds": 0.1, "x_file_stream_retry_wait_max_seconds": 0.2,
        "x_graphql_retry_max": 1, "x_graphql_retry_wait_min_seconds": 0.1, "x_graphql_retry_wait_max_seconds": 0.2,
        "x_file_stream_timeout_seconds": 1.0, "x_graphql_timeout_seconds": 2.0,
    },
    "wandb_init_seconds": 5.0, "wandb_finish_seconds": 5.0, "wandb_verify_seconds": 0.3, "wandb_arrive_seconds": 1.5,
}  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.2)


def global_steps(server: WandbServer, run_id: str = "run-1") -> list[int]:
    return [row["train/global_step"] for row in server.runs[run_id].history] if run_id in server.runs else []


def test_with_a_key_rows_arrive_while_the_run_goes_on(tmp_path: Path, server: WandbServer) -> None:
    run = Run(tmp_path, config={"lr": 0.1}, entity="team", group="g", tags=["t"], notes="n")
    with Manager(run, "wandb", **QUICK) as manager:
        run.steps(0, 9)
        manager.drain()
        until(lambda: global_steps(server) == list(range(10)))
        health = manager.health("wandb")
        assert (health.state, health.reason) == ("ok", "W&B initialized: demo/d12")
        assert health.url == f"{server.url}/team/demo/runs/run-1"
        assert not server.runs["run-1"].complete
    stored = server.runs["run-1"]
    assert stored.complete
    assert stored.config["lr"] == 0.1
    assert stored.upserts[0]["groupName"] == "g"


def test_after_a_restart_the_run_is_resumed_without_a_repeat(tmp_path: Path, server: WandbServer) -> None:
    run = Run(tmp_path)
    for first in (0, 5):
        run.steps(first, first + 4)
        with Manager(run, "wandb", **QUICK) as manager:
            manager.drain()
        run.emit(wire.Hardware(run.now_ns, 0, None, {"cpu_percent": 37.5}, []))
    assert global_steps(server) == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9]  # The reading has its place on the axis.


def test_an_outage_in_the_middle_loses_and_repeats_nothing(tmp_path: Path, server: WandbServer) -> None:
    run = Run(tmp_path)
    with Manager(run, "wandb", **QUICK) as manager:
        run.steps(0, 4)
        manager.drain()
        until(lambda: len(global_steps(server)) == 5)
        server.stop()
        run.steps(5, 9)
        manager.manager.notify("run-1")
        time.sleep(1.0)
        server.start()
        run.steps(10, 14)
        manager.drain()
        until(lambda: global_steps(server) == list(range(15)), 90.0, lambda: str(manager.health("wandb")))


@pytest.mark.slow
@pytest.mark.usefixtures("short_rests")
def test_an_uploader_that_died_for_good_is_replaced_and_the_journal_repairs_it(
    tmp_path: Path, server: WandbServer
) -> None:
    """Each fault in turn, in one run: the key revoked, a proxy's page, broken rows, nothing allowed any more."""
    run, first = Run(tmp_path), 0
    with Manager(run, "wandb", **QUICK) as manager:
        health = manager.health("wandb")
        for fault in (None, "rows_unauthorized", "rows_html", "rows_error", "rows_too_many", "unauthorized"):
            failures = health.failures_total
            server.fault = fault
            run.steps(first, first + 4)
            first += 5
            manager.manager.notify("run-1")
            if fault:
                until(lambda before=failures: health.failures_total > before, 60.0, lambda: f"{fault}: {health}")  # noqa: B023
                if fault == "unauthorized":  # wandb itself would need a quarter of a minute.
                    assert health.reason.startswith("W&B refused the key: check WANDB_API_KEY")
            server.fault = None
            manager.drain(120.0)
            until(lambda: global_steps(server) == list(range(first)), 60.0, lambda: f"{fault}: {health}")  # noqa: B023


REMEDIES = {
    "error": "has trouble of its own, rows wait in the journal",
    "unauthorized": "refused the key: check WANDB_API_KEY or run `wandb login`",
    "forbidden": "refused access to the project: check the entity and your rights",
    "too_many": "asks for patience, rows wait in the journal",
    "html": "was not reached, a web page answered: check the proxy, or WANDB_BASE_URL",
    "refuse": "cannot be reached, rows wait in the journal; check the network, or WANDB_BASE_URL",
    "hang": "cannot be reached, rows wait in the journal",
}


@pytest.mark.usefixtures("short_rests")
def test_a_server_that_is_down_from_the_start_gets_everything_later(
    tmp_path: Path, server: WandbServer
) -> None:
    """Down in every way in turn, in one run."""
    run = Run(tmp_path)
    server.fault = "error"
    with Manager(run, "wandb", **(QUICK | {"wandb_init_seconds": 2.0})) as manager:
        run.steps(0, 4)
        manager.manager.notify("run-1")
        health = manager.health("wandb")
        for fault, remedy in REMEDIES.items():
            server.fault = fault
            said = f"W&B {remedy}"
            until(lambda said=said: (health.reason or "").startswith(said), 60.0, lambda: f"{fault}: {health}")  # noqa: B023
            assert health.state == "failing"
            assert KEY not in health.reason
        server.fault = None
        manager.drain(90.0)
        until(lambda: global_steps(server) == list(range(5)), 60.0)


def _hang_after_five_steps(run: Run, manager: Manager, server: WandbServer) -> None:
    """Five steps have arrived; five more are in the journal, and the server answers no more."""
    run.steps(0, 4)
    manager.drain()
    until(lambda: len(global_steps(server)) == 5)
    server.fault = "hang"
    run.steps(5, 9)


def test_a_server_that_is_away_at_the_end_is_not_waited_for(tmp_path: Path, server: WandbServer) -> None:
    run, patient = Run(tmp_path), QUICK | {"wandb_finish_seconds": 600.0, "wandb_arrive_seconds": 600.0}
    with Manager(run, "wandb", **patient) as manager:
        run.steps(0, 4)
        manager.drain()
        until(lambda: len(global_steps(server)) == 5)
        server.stop()
        run.steps(5, 9)
        manager.manager.notify("run-1")
        until(lambda: manager.health("wandb").delivered_rows == 20)
        manager.manager.close(20.0)
        assert "W&B cannot be reached, rows wait in the journal" in manager.health("wandb").reason
        assert "`sidecar sync run-1` sends the rest" in manager.health("wandb").reason
    server.start()
    with Manager(run, "wandb", **QUICK) as manager:
        manager.drain()
        until(lambda: global_steps(server) == list(range(10)))


@pytest.mark.parametrize(("environ", "reached"), [
    ({}, False), ({"http_proxy": "http://127.0.0.1:1"}, True),
    ({"http_proxy": "http://127.0.0.1:1", "no_proxy": "*"}, False),
])  # fmt: skip
def test_whether_a_server_is_there_is_only_asked_where_no_proxy_stands_between(
    monkeypatch: pytest.MonkeyPatch, server: WandbServer, environ: dict[str, str], reached: bool
) -> None:
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    wandb_upstream.reach(server.url)
    server.stop()
    with nullcontext() if reached else pytest.raises(wandb_upstream.NoAnswer, match="no connection to 127.0.0.1"):
        wandb_upstream.reach(server.url)


def test_what_could_not_be_uploaded_before_the_end_is_sent_by_a_later_sync(
    tmp_path: Path, server: WandbServer
) -> None:
    run, patient = Run(tmp_path), QUICK | {"wandb_arrive_seconds": 60.0}
    with Manager(run, "wandb", **patient) as manager:
        _hang_after_five_steps(run, manager, server)
        manager.manager.notify("run-1")
        until(lambda: manager.health("wandb").delivered_rows == 20)
        manager.manager.close(1.0)
        assert manager.health("wandb").state == "failing"
        assert "`sidecar sync run-1` sends the rest" in manager.health("wandb").reason
    server.fault = None
    assert [binding.sink for binding in late.unsent(run.store)] == ["wandb"]
    settings = config(tmp_path, **QUICK)
    late.deliver_now(settings, run.store, [("run-1", "wandb")], timeout_seconds=60.0)
    assert global_steps(server) == list(range(10))
    assert late.unsent(run.store) == []


def test_rows_of_an_ended_run_that_a_crash_of_the_host_kept_from_w_and_b_are_sent_by_the_next_sidecar(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B had taken them, and was about to send them: by the cursor alone nothing is missing."""
    monkeypatch.setattr(manager_module, "TICK_SECONDS", 0.05)
    left, crashed = tmp_path / "left", tmp_path / "crashed"
    run, patient = Run(left), QUICK | {"wandb_arrive_seconds": 60.0}
    with Manager(run, "wandb", **patient) as manager:
        _hang_after_five_steps(run, manager, server)
        run.finish()
        ended = RunSummary("run-1", "demo", "d12", "pretrain", "finished", 9, 1)
        run.journal.put_summary(msgspec.msgpack.encode(ended))
        manager.drain()
        shutil.copytree(left, crashed)  # As a kill of everything at this moment leaves it.
        manager.manager.close(0.1)
    server.fault = None
    later = SinkManager(config(crashed, "wandb", **QUICK), Store(crashed), Telemetry(), policy=FAST, resumes=True)
    until(lambda: global_steps(server) == list(range(10)), 60.0, lambda: str(later.health("run-1", "wandb")))
    later.close(30.0)
    assert global_steps(server) == list(range(10))


def test_a_wrong_key_is_named_as_such(tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    run = Run(tmp_path)
    with Manager(run, "wandb", **QUICK) as manager:
        run.steps(0, 1)
        manager.manager.notify("run-1")
        health = manager.health("wandb")
        until(lambda: health.failures_total >= 1, 60.0)
        assert "check WANDB_API_KEY or run `wandb login`" in health.reason
        assert "f" * 40 not in health.reason


def test_nothing_private_is_in_any_request(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "canary-user")
    config = {"prompt": "canary-prompt", "path": "/data/canary-data", "api_key": "canary-key", "lr": 0.5}
    run = Run(tmp_path, config=config, host="canary-host", launch_id="canary-launch")
    with Manager(run, "wandb", **QUICK) as manager:
        run.steps(0, 3, word="canary-word")
        run.emit(wire.Text(run.now_ns, 0, 3, "sample", "canary-text"))
        manager.drain()
    sent = b"\n".join(path.encode() + b" " + body for path, body in server.requests)
    assert b"train/loss" in sent
    assert b"canary" not in sent
    for word in {socket.gethostname(), str(tmp_path), str(Path.cwd()), "pytest", getpass.getuser()} - {"root"}:
        assert word.encode() not in sent, word
    assert set(server.uploaded_names) <= {"wandb-summary.json", "config.yaml"}


def test_the_key_is_found_in_netrc_as_wandb_login_leaves_it(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    environ = {"WANDB_BASE_URL": server.url, "NETRC": str(netrc)}
    assert wandb_account.choose_mode({}, environ).mode == "online"
    assert wandb_account.choose_mode({}, environ | {"WANDB_BASE_URL": "http://elsewhere.example"}).mode == "offline"


@pytest.mark.parametrize(
    ("options", "environ", "mode", "word"),
    [
        ({}, {}, "offline", "no key"),
        ({}, {"WANDB_API_KEY": KEY}, "online", None),
        ({}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline", "WANDB_MODE=offline"),
        ({}, {"WANDB_MODE": "dryrun"}, "offline", "WANDB_MODE=dryrun"),
        ({}, {"WANDB_MODE": "online"}, "offline", "no key"),
        ({"mode": "online"}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online", None),
        ({}, {"WANDB_API_KEY": KEY, "WANDB_MODE": "sometimes"}, "offline", "not one of"),
        ({}, {"WANDB_DISABLED": "1"}, "disabled", "WANDB_DISABLED"),
    ],
)
def test_the_mode_is_chosen_from_option_environment_and_key(
    options: dict[str, Any], environ: dict[str, str], mode: str, word: str | None
) -> None:
    choice = wandb_account.choose_mode(options, environ | {"HOME": "/nonexistent"})
    assert choice.mode == mode
    assert choice.reason is None if word is None else word in (choice.reason or "")


def test_run_ids_are_made_acceptable_and_stay_different() -> None:
    ids = [wandb_account.run_id(text) for text in ("plain-1", "a/b", "a b", "x" * 200, "x" * 201, "")]
    assert ids[0] == "plain-1"
    assert len(set(ids)) == len(ids)
    assert all(0 < len(id) <= 64 and "/" not in id for id in ids)
