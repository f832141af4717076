"""A sink in a child of its own: it may hang, die or be left alone, and nothing is lost and nothing stays behind."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sidecar.rows import Row, RunInfo
from sidecar.sinks import isolate
from sidecar.sinks.base import SinkContext, SinkDied, Unavailable
from sidecar.sinks.isolate import IsolatedSink, Limits, RowsRefused

from .harness import Manager, Run, until
from .stand_ins import delivered, opened, order

pytestmark = pytest.mark.usefixtures("stand_ins")
TARGET = f"{__package__}.stand_ins:Isolated"


def a_sink(tmp_path: Path, **limits: float) -> IsolatedSink:
    return IsolatedSink(TARGET, SinkContext(sink="isolated", data_dir=str(tmp_path)), ["RECORDER_*"], Limits(**limits))


def a_row(step: int = 1, **metrics: float) -> Row:
    return Row("run-1", 0, step, step, 1.5, "step", dict(metrics) or {"train/loss": float("nan")})


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_rows_cross_to_the_child_and_nan_with_them(tmp_path: Path) -> None:
    sink = a_sink(tmp_path)
    sink.open(RunInfo("run-1"))
    sink.deliver([a_row(1), a_row(2)], 5)
    pid = sink.pid
    sink.close()
    rows = delivered(tmp_path, "isolated")
    assert [row[0] for row in rows] == [5, 6]
    assert str(rows[0][3]["train/loss"]) == "nan"
    assert pid is not None
    assert not alive(pid)


def test_the_child_sees_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.mkdir()
    (stand_in / isolate.STAND_IN_MARK).touch()
    capture = str(Path(isolate.__file__).parents[1] / "client")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stand_in), capture, os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s" * 40)
    monkeypatch.setenv("RECORDER_WORD", "hello")
    sink = a_sink(tmp_path)
    sink.open(RunInfo("run-1"))
    sink.close()
    environ = opened(tmp_path, "isolated")[0]["environ"]
    assert environ["RECORDER_WORD"] == "hello"
    assert not {"WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"} & environ.keys()
    assert str(stand_in) not in environ["PYTHONPATH"]
    assert capture not in environ["PYTHONPATH"]


def test_a_user_without_a_home_gets_one_for_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isolate.with_a_home({"HOME": "/home/me"}, tmp_path) == {"HOME": "/home/me"}
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert isolate.with_a_home({}, tmp_path) == {"HOME": str(tmp_path)}


def test_a_hung_child_is_killed_within_its_limit(tmp_path: Path) -> None:
    sink = a_sink(tmp_path, deliver_seconds=0.5)
    sink.open(RunInfo("run-1"))
    pid = sink.pid
    assert pid is not None
    order(tmp_path, "isolated", "hang")
    with pytest.raises(SinkDied, match="hung in deliver") as caught:
        sink.deliver([a_row()], 0)
    assert not caught.value.by_itself
    assert not alive(pid)
    order(tmp_path, "isolated", "")
    sink.open(RunInfo("run-1"))
    sink.deliver([a_row()], 0)
    sink.close()
    assert len(delivered(tmp_path, "isolated")) == 1


def test_a_child_that_dies_says_how(tmp_path: Path) -> None:
    sink = a_sink(tmp_path)
    sink.open(RunInfo("run-1"))
    order(tmp_path, "isolated", "die")
    with pytest.raises(SinkDied, match="signal 9"):
        sink.deliver([a_row()], 0)


def test_errors_of_the_rows_and_of_the_far_end_stay_apart(tmp_path: Path) -> None:
    sink = a_sink(tmp_path)
    sink.open(RunInfo("run-1"))
    with pytest.raises(RowsRefused, match="cannot take this row"):
        sink.deliver([a_row(poison=1.0)], 0)
    order(tmp_path, "isolated", "outage")
    with pytest.raises(Unavailable, match="no route"):
        sink.deliver([a_row()], 0)
    sink.close()


def test_a_killed_child_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "isolated") as manager:
        run.steps(0, 4)
        manager.drain()
        os.kill(opened(tmp_path, "isolated")[-1]["pid"], signal.SIGKILL)
        run.steps(5, 9)
        manager.drain()
        assert manager.health("isolated").restarts_total == 1
    rows = delivered(tmp_path, "isolated")
    assert [row[2] for row in rows if row[1] == "step"] == list(range(10))
    assert len({row["pid"] for row in opened(tmp_path, "isolated")}) == 2


def test_closing_is_bounded_when_the_child_hangs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    order(tmp_path, "isolated", "hang")
    with Manager(run, "isolated") as manager:
        run.steps(0, 1)
        manager.manager.notify("run-1")
        pid = until(lambda: [row["pid"] for row in opened(tmp_path, "isolated")])[0]
        manager.manager.close(0.5)
        until(lambda: not alive(pid), 10.0)


def test_a_child_whose_parent_is_gone_when_it_answers_closes_its_sink_all_the_same(tmp_path: Path) -> None:
    sink = a_sink(tmp_path)
    sink.open(RunInfo("run-1"))
    order(tmp_path, "isolated", "wait")
    assert sink._socket is not None
    assert sink._process is not None
    isolate.send(sink._socket, isolate._encoder.encode(isolate.Deliver(0, [a_row(1)])))
    sink._socket.close()
    order(tmp_path, "isolated", "")
    until(lambda: (tmp_path / "isolated.closed").exists())
    assert sink._process.wait(10.0) == 0
    assert [row[0] for row in delivered(tmp_path, "isolated")] == [0]


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from sidecar.sinks.isolate import IsolatedSink\n"
        "from sidecar.sinks.base import SinkContext\n"
        "from sidecar.rows import RunInfo\n"
        f"sink = IsolatedSink({TARGET!r}, SinkContext(sink='isolated', data_dir={str(tmp_path)!r}))\n"
        "sink.open(RunInfo('run-1')); print('open', flush=True); time.sleep(600)\n"
    )
    root = str(Path(isolate.__file__).parents[2])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ["PYTHONPATH"]])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"open\n"
        child = opened(tmp_path, "isolated")[0]["pid"]
        assert alive(child)
        parent.kill()
    deadline = time.monotonic() + 15.0
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
