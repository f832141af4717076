"""Scripts that only know a tracking library: their log rows are all there is, and they are enough."""

import pytest

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from tests.derive.stream import Process, derived, projected


def logged(p: Process, step: int, after: float = 1.0, **metrics: float) -> object:
    return p.record(wire.Log, after, step=step, metrics=metrics)


def test_log_rows_of_a_captured_script_are_its_steps() -> None:
    p = Process()
    records = [logged(p, step, 5.0, loss=2.0, lr=0.1) for step in range(0, 200, 10)]
    records.append(logged(p, 190, **{"eval/loss": 1.5}))
    projector, rows = projected(records, p.hello(captured="wandb", total_steps=400))
    assert derived(rows)[190]["train/steps_per_second"] == pytest.approx(2.0)
    assert derived(rows)[190]["train/loss_ema"] == pytest.approx(2.0)
    assert "train/eta_minutes" in derived(rows)[190]
    shown = snapshot(projector.state, now_ns=p.wall_ns)
    assert (shown.state, shown.step, shown.loss, shown.learning_rate) == ("running", 190, 2.0, 0.1)
    assert shown.val["loss"] == 1.5
    assert [row.kind for row in rows if row.kind != "derived"] == ["log"] * 21


def test_a_captured_script_that_falls_silent_is_stalled() -> None:
    p = Process()
    records = [logged(p, step, loss=2.0) for step in range(20)]
    projector, _ = projected(records, p.hello(captured="wandb"))
    assert snapshot(projector.state, now_ns=p.wall_ns + 61 * 10**9).state == "stalled"


def test_log_rows_are_no_steps_where_steps_are_sent() -> None:
    for captured in (None, "torch"):
        p = Process()
        records = [p.step(0), *(r for i in range(1, 10) for r in (logged(p, i, 0.5, x=1.0), p.step(i, 0.5)))]
        projector, _ = projected(records, p.hello(captured=captured))
        assert projector.state.steps_total == 10


def test_log_rows_of_our_own_interface_are_no_steps() -> None:
    p = Process()
    projector, rows = projected([logged(p, 5, x=1.0)], p.hello())
    assert projector.state.steps_total == 0
    assert [row.kind for row in rows] == ["log"]


def test_a_late_row_is_no_step() -> None:
    p = Process()
    records = [logged(p, 5, x=1.0), p.record(wire.Log, step=9, metrics={"x": 1.0}, late=True)]
    projector, _ = projected(records, p.hello(captured="wandb"))
    assert projector.state.step == 5
