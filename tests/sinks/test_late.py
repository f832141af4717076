"""Sinks bound late: from another process, to a run that goes on or is over."""

from pathlib import Path

import pytest

from sidecar.errors import UserError
from sidecar.sinks import late
from sidecar.sinks.registry import UnknownSink

from .harness import Manager, Run, config, until
from .stand_ins import delivered, order

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_a_live_sidecar_takes_up_a_sink_that_another_process_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "recorder") as manager:
        run.steps(0, 4)
        manager.drain()
        assert late.request(tmp_path, "run-1", "second") is True
        assert late.request(tmp_path, "run-1", "second") is False
        until(lambda: delivered(tmp_path, "second"))
        run.steps(5, 9)
        manager.drain()
    assert delivered(tmp_path, "second") == delivered(tmp_path, "recorder")


def test_a_finished_run_is_sent_without_a_sidecar(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    run.finish()
    health = late.deliver_now(config(tmp_path), run.store, [("run-1", "isolated")], timeout_seconds=30.0)
    assert health["run-1", "isolated"].lag_events == 0
    assert [row[2] for row in delivered(tmp_path, "isolated") if row[1] == "step"] == list(range(10))
    assert late.unsent(run.store) == []


def test_what_is_unsent_is_listed_and_can_be_sent_later(tmp_path: Path) -> None:
    run = Run(tmp_path)
    order(tmp_path, "recorder", "outage")
    with Manager(run, "recorder") as manager:
        run.steps(0, 4)
        manager.manager.notify("run-1")
        until(lambda: manager.health("recorder").failures_total)
        manager.manager.close(2.0)
    late.request(tmp_path, "run-1", "recorder")
    (binding,) = late.unsent(run.store)
    assert (binding.sink, binding.delivered, binding.lag_rows, binding.paused) == ("recorder", 0, 5, False)
    order(tmp_path, "recorder", "")
    late.deliver_now(config(tmp_path), run.store, [("run-1", "recorder")], timeout_seconds=30.0)
    assert late.unsent(run.store) == []


def test_pausing_a_sink_that_does_not_exist_is_an_error_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(UnknownSink, match="wandb, tensorboard"):
        late.pause(tmp_path, "run-1", "nonsense")


def test_a_file_of_cursors_that_cannot_be_opened_is_an_error_with_cause_and_remedy(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "cursors.sqlite").mkdir()
    for command in (
        lambda: late.bindings(run.store), lambda: late.request(tmp_path, "run-1", "second"),
        lambda: late.deliver_now(config(tmp_path), run.store, [("run-1", "second")], timeout_seconds=1.0),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            command()
        assert caught.value.cause == f"{tmp_path}/cursors.sqlite cannot be used (unable to open database file)"
        assert caught.value.remedy == "make room there, and let this user write there"
