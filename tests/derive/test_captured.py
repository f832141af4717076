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


def test_names_that_the_sidecar_computed_are_told_from_those_that_were_logged() -> None:
    p = Process()
    records = [logged(p, step, loss=2.0, **{"train/loss_ema": 9.0, "lr": 0.1}) for step in range(5)]
    shown = snapshot(projected(records, p.hello(captured="wandb"))[0].state, now_ns=p.wall_ns)
    assert {"train/loss", "train/learning_rate", "train/perplexity"} <= set(shown.computed)
    assert shown.metrics.keys() - shown.computed == {"loss", "lr", "train/loss_ema"}
    records.append(logged(p, 5, **{"train/learning_rate": 0.2}))  # From now on that name is the script's own.
    shown = snapshot(projected(records, p.hello(captured="wandb"))[0].state, now_ns=p.wall_ns)
    assert shown.metrics.keys() - shown.computed == {"loss", "lr", "train/loss_ema", "train/learning_rate"}


@pytest.mark.parametrize("name", ["train/tok_per_sec", "tok_per_sec", "tokens_per_second", "tokens_per_sec"])
def test_speed_and_mfu_that_a_script_claims_are_shown_until_the_sidecar_can_tell_by_itself(name: str) -> None:
    p = Process()
    records = [logged(p, step, **{name: 1_000.0, "train/mfu": 41.5}) for step in range(5)]
    shown = snapshot(projected(records, p.hello(captured="wandb"))[0].state, now_ns=p.wall_ns)
    assert (shown.tokens_per_second, shown.mfu.reported_percent) == (1_000.0, 41.5)
    records = [logged(p, step, **{name: 1_000.0, "num_tokens": 30}) for step in range(5, 10)]
    projector, rows = projected(records, p.hello(captured="wandb"))
    assert snapshot(projector.state, now_ns=p.wall_ns).tokens_per_second == pytest.approx(30.0)
    assert derived(rows)[9]["train/tokens_per_second"] == pytest.approx(30.0)


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


TRAINER = {"per_device_train_batch_size": 2}


@pytest.mark.parametrize("name", ["train/num_tokens", "train/num_input_tokens_seen"])
def test_a_running_total_of_tokens_is_no_count_of_one_step(name: str) -> None:
    """TRL adds up its num_tokens, transformers its num_input_tokens_seen; both are logged every ten steps here."""
    p = Process()
    records = [logged(p, i, **{"train/global_step": 10 * (i + 1), name: 640 * (i + 1)}) for i in range(5)]
    projector, rows = projected(records, p.hello(captured="wandb", config=TRAINER))
    assert projector.state.tokens == projector.state.tokens_total == 5 * 640
    assert derived(rows)[4]["train/tokens_per_second"] == pytest.approx(640.0)
    assert [row.metrics[name] for row in rows if row.kind == "log"] == [640 * (i + 1) for i in range(5)]


def test_tokens_that_a_script_counts_step_by_step_are_added_up() -> None:
    p = Process()
    records = [logged(p, i, num_tokens=100 + i, **{"train/global_step": i}) for i in range(5)]
    projector, _ = projected(records, p.hello(captured="wandb"))
    assert projector.state.tokens == 510


def test_a_total_that_begins_anew_counts_on_and_a_resumed_process_repeats_nothing() -> None:
    first, second = Process(session=2), Process(session=3, at=100.0)
    totals = [10, 30, 5, 15]  # The third is of the next epoch, whose count begins at nothing.
    records = [logged(first, i, **{"train/num_input_tokens_seen": n}) for i, n in enumerate(totals)]
    records += [logged(second, 4 + i, **{"train/num_input_tokens_seen": n}) for i, n in enumerate((45, 50))]
    projector, _ = projected(records, *(p.hello(captured="swanlab") for p in (first, second)))
    assert projector.state.tokens_total == 30 + 15 + 5


def test_nobody_waits_for_ranks_that_never_log() -> None:
    """Most scripts log on their main process only, whatever the size of the world."""
    p = Process()
    records = [logged(p, step, loss=2.0) for step in range(3)]
    projector, rows = projected(records, p.hello(captured="wandb", world_size=8))
    assert list(derived(rows)) == [0, 1, 2]
    assert projector.state.step == 2
