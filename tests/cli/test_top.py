"""``sidecar top`` while the sidecar is slow, away for a moment, or gone."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_service import STATUS

from sidecar import live, screen
from sidecar.commands import doctor, top
from sidecar.config import load
from sidecar.errors import Exit, UserError


class Service:
    """Answers as the sidecar does, or not in time, or with an error."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.code, self.answers = directory, 200, threading.Event()
        self.answers.set()
        self.start()

    def start(self) -> None:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.answers.wait(10.0)
                history = {"series": {"train/loss": {"values": [3.0, 2.0]}}}
                status = STATUS | {"run_id": "r1", "sidecar": {"pid": os.getpid()}}
                answer = history if "history" in self.path else status
                body = json.dumps(answer).encode()
                self.send_response(service.code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        ready = {"http": f"http://127.0.0.1:{self.server.server_port}", "events": "ipc:///x", "pid": os.getpid()}
        (self.directory / "endpoints.json").write_text(json.dumps(ready))

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(top, "ANSWER_SECONDS", 0.5)
    made = Service(tmp_path)
    yield made
    made.answers.set()
    made.stop()


@pytest.fixture
def watch(service: Service) -> top.Watch:
    config = load({"dir": str(service.directory)}, {}).config
    return top.Watch(config, live.require(config), None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time that ``top`` reads."""
    now, moved = top.time.monotonic, [0.0]
    monkeypatch.setattr(top.time, "monotonic", lambda: now() + moved[0])
    return lambda seconds: moved.__setitem__(0, moved[0] + seconds)


def test_a_slow_answer_keeps_the_last_screen_and_says_how_old_it_is(
    service: Service, watch: top.Watch, clock: Callable[[float], None]
) -> None:
    watch.look(80)
    assert (watch.status["step"], watch.losses, watch.note) == (20, [3.0, 2.0], "")
    service.answers.clear()
    clock(3600.0)
    watch.look(80)
    assert (watch.status["step"], watch.losses) == (20, [3.0, 2.0])
    assert watch.note.startswith("the sidecar answers slowly, what is shown is 360")
    lines = screen.draw(watch.status, watch.losses, columns=100, rows=30, colour=False, note=watch.note)
    assert lines[2] == screen.fit(watch.note, 100)
    service.answers.set()
    watch.look(80)
    assert watch.note == ""


def test_a_sidecar_that_has_too_much_to_do_is_slow_and_one_that_says_no_ends_it(
    service: Service, watch: top.Watch
) -> None:
    service.code = 503
    watch.look(80)
    assert "answers slowly" in watch.note
    service.code = 404
    with pytest.raises(UserError, match="no status: .* answered 404") as refused:
        watch.look(80)
    assert refused.value.exit_code == Exit.NO_DATA


def test_a_sidecar_that_is_started_again_is_found_at_its_new_port(service: Service, watch: top.Watch) -> None:
    watch.look(80)
    service.stop()
    watch.look(80)
    assert watch.note.startswith("the sidecar is gone or being started again")
    service.start()
    watch.look(80)  # Still at the old port, then it reads where the new one is.
    watch.look(80)
    assert watch.note == ""


def test_it_ends_when_nobody_has_been_there_for_a_while(
    service: Service, watch: top.Watch, clock: Callable[[float], None]
) -> None:
    watch.look(80)
    service.stop()
    watch.look(80)
    clock(top.PATIENCE_SECONDS / 2)
    watch.look(80)
    clock(top.PATIENCE_SECONDS / 2)
    with pytest.raises(UserError, match="the sidecar is gone") as gone:
        watch.look(80)
    assert gone.value.exit_code == Exit.NO_DATA


def test_a_process_that_is_gone_is_not_taken_for_a_slow_one(
    service: Service, watch: top.Watch, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers.clear()
    monkeypatch.setattr(live, "is_alive", lambda pid: False)
    watch.look(80)
    clock(top.PATIENCE_SECONDS)
    with pytest.raises(UserError, match="the sidecar is gone"):
        watch.look(80)


def test_a_sidecar_too_busy_to_answer_is_not_taken_for_none(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    from sidecar import cli

    config = load({"dir": str(service.directory)}, {}).config
    service.answers.clear()
    assert live.find(config, timeout_seconds=0.2) == live.read_endpoints(service.directory)
    service.answers.set()
    service.code = 503
    assert cli.main(["status", "--dir", config.dir]) == Exit.NO_DATA
    assert "fix: it is busy, or stopped: try again" in capsys.readouterr().err
    (found,) = doctor.port(config)
    assert (found.level, f"running, pid {os.getpid()}" in found.text) == ("warning", True)


def test_one_screen_without_a_terminal_waits_for_an_answer_but_not_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sidecar import cli

    command = ["top", "--once", "--every", "0.1", "--dir", str(service.directory)]
    found = live.read_endpoints(service.directory)
    monkeypatch.setattr(live, "require", lambda config: found)
    monkeypatch.setattr(top, "PATIENCE_SECONDS", 0.5)
    service.answers.clear()
    assert cli.main(command) == Exit.NO_DATA
    assert "no status: the sidecar answers slowly" in capsys.readouterr().err
    threading.Timer(0.2, service.answers.set).start()
    monkeypatch.setattr(top, "PATIENCE_SECONDS", 30.0)
    assert cli.main(command) == Exit.OK
    assert "20/20" in capsys.readouterr().out
