"""Whatever surrounds ``sidecar.init``: odd arguments, odd environments, a process that may have no more threads."""

import argparse
import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import sidecar
from sidecar import wire
from tests.client.test_run import REPOSITORY, events, of_kind

SURROGATE = "caf\udce9"
"""What Python makes of bytes that are no UTF-8, in arguments, paths and environment variables."""


@pytest.fixture
def init(tmp_path: Path) -> Any:
    made = []

    def begin(**arguments: Any) -> Any:
        made.append(sidecar.init(**{"project": "tests", "endpoint": f"ipc://{tmp_path}/nobody", **arguments}))
        return made[-1]

    yield begin
    for run in made:
        run.finish(timeout_seconds=0)
        if run._emitter.ring.path is not None:
            run._emitter.ring.path.unlink(missing_ok=True)


def hello(run: Any) -> wire.Hello:
    found = wire.decode_from_trainer(wire.encode(run._emitter.pump._hello))
    assert isinstance(found, wire.Hello)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "rank"),
        ({"rank": "0"}, "rank"),
        ({"rank": 2**40}, "rank"),
        ({"world_size": 0}, "world_size"),
        ({"total_steps": 1.5}, "total_steps"),
        ({"config": argparse.Namespace(lr=1)}, "vars"),
        ({"model_facts": [1]}, "model_facts"),
        ({"endpoint": 5}, "endpoint"),
    ],
)
def test_a_wrong_argument_says_which(init: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        init(**arguments)


def test_numbers_of_numpy_and_names_of_any_kind_are_taken(init: Any) -> None:
    numpy = pytest.importorskip("numpy")
    odd = {"rank": numpy.int64(1), "total_steps": numpy.int32(10), "run_id": 5, "group": 3, "tags": "one"}
    found = hello(init(**odd, sinks=("wandb",)))
    assert (found.rank, found.total_steps, found.run_id, found.group) == (1, 10, "5", "3")
    assert (found.tags, found.sinks) == (["one"], ["wandb"])
    assert hello(init(tags=None)).tags == []


def test_text_that_is_no_unicode_does_not_keep_a_run_from_beginning(
    init: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_NAME", SURROGATE)
    config = {"path": SURROGATE, SURROGATE: 1, "deep": {SURROGATE: [SURROGATE]}}
    found = hello(init(project=SURROGATE, notes=SURROGATE, tags=[SURROGATE], config=config))
    assert (found.project, found.name, found.notes, found.tags) == ("caf?", "caf?", "caf?", ["caf?"])
    assert found.config["path"] == "caf?"
    assert found.config["caf?"] == 1


def test_text_that_is_no_unicode_arrives_all_the_same(init: Any) -> None:
    run = init()
    run.text(SURROGATE, SURROGATE)
    run.checkpoint(1, path=f"/tmp/{SURROGATE}")
    run.config({SURROGATE: SURROGATE})
    text, checkpoint, config = events(run)
    assert (text.name, text.text, checkpoint.path, config.config) == ("caf?", "caf?", "/tmp/caf?", {"caf?": "caf?"})


def test_a_configuration_too_large_for_one_message_is_cut_and_counted(init: Any) -> None:
    run = init(config={"lr": 0.1, **{f"k{i}": "x" * 1000 for i in range(4000)}, "huge": "x" * 2_000_000, "last": 1})
    found = hello(run)
    assert len(wire.encode(found)) < wire.MESSAGE_BYTES_MAX
    assert found.config["lr"] == 0.1
    assert run.rejected["map_too_large"] == 4002 - len(found.config) + 1
    run.config({"huge": "x" * 2_000_000, "small": 1})
    assert of_kind(run, wire.ConfigChanged)[0].config == {"small": 1}


@pytest.mark.parametrize(("name", "value"), [("RANK", "²"), ("WORLD_SIZE", "x"), ("SIDECAR_RING_MB", "9" * 40)])
def test_an_absurd_environment_does_not_keep_a_run_from_beginning(
    init: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    run = init()
    run.step(1, loss=1.0)
    assert [event.step for event in of_kind(run, wire.Step)] == [1]


def test_a_torch_that_is_only_half_imported_is_left_alone(init: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    run = init(model=object())
    run.step(1, loss=1.0)
    with run.phase("forward"):
        pass
    run.watch(object())
    assert [event.step for event in of_kind(run, wire.Step)] == [1]


def test_a_process_that_may_have_no_more_threads_trains_on_and_keeps_its_events(
    init: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    run = init()
    run.step(1, loss=1.0)
    assert [event.step for event in of_kind(run, wire.Step)] == [1]
    assert "can't start new thread" in caplog.text
    path = run._emitter.ring.path
    run.finish()
    assert path.exists(), "the next sidecar takes it from there"


ENDS = {
    "an exception": ("raise KeyError('x')", ("failed", "KeyError")),
    "sys.exit(0) in a with block": ("with run: sys.exit(0)", ("finished", None)),
    "sys.exit(3) in a with block": ("with run: sys.exit(3)", ("failed", "SystemExit")),
    "sys.exit(3), of which only the parent process learns": ("sys.exit(3)", ("finished", None)),
    "sys.exit, which is the interpreter's own still": (
        "import types; assert isinstance(sys.exit, types.BuiltinFunctionType)", ("finished", None)
    ),
    "an exception as the reason": ("run.finish('failed', reason=ValueError('bad batch'))", ("failed", "bad batch")),
    "for ever, or less than no time": ("run.finish(timeout_seconds=float('nan'))", ("finished", None)),
    "an earlier line of a session": ("sys.ps1 = '>>> '; sys.last_type = KeyError", ("finished", None)),
}


PREAMBLE = """
import multiprocessing, sys
import sidecar
from sidecar.client import emitter
def told(self, event, timeout_seconds):
    print(repr((event.state, event.reason)), flush=True)
    self.emit = self._after_finish
    self.pump.stop()
    self.ring.remove()
emitter.Emitter.finish = told
"""


@pytest.mark.parametrize("end", ENDS)
def test_how_a_program_ends_is_told(end: str, tmp_path: Path) -> None:
    line, expected = ENDS[end]
    assert outputs(f"run = sidecar.init('tests', endpoint='ipc://{tmp_path}/nobody')\n{line}\n") == [repr(expected)]


WORKER_ENDS = {
    "return": ("return", ("finished", None)),
    "sys.exit(0)": ("sys.exit(0)", ("finished", None)),
    "sys.exit(1)": ("sys.exit(1)", ("failed", "SystemExit")),
    "an exception": ("raise KeyError('x')", ("failed", "KeyError")),
}


@pytest.mark.parametrize("end", WORKER_ENDS)
def test_how_a_forked_worker_ends_is_told_once_and_the_parents_run_goes_on(end: str, tmp_path: Path) -> None:
    line, expected = WORKER_ENDS[end]
    code = f"""
parent = sidecar.init('tests', endpoint='ipc://{tmp_path}/nobody')
def work():
    sidecar.init('tests', endpoint='ipc://{tmp_path}/nobody')
    {line}
worker = multiprocessing.get_context('fork').Process(target=work)
worker.start()
worker.join()
print(parent._emitter.is_open, flush=True)
"""
    assert outputs(code) == [repr(expected), "True", repr(("finished", None))]


def outputs(code: str) -> list[str]:
    """The lines that a program prints."""
    code = PREAMBLE + code
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    return found.stdout.splitlines()
