import warnings

import pytest

import sidecar
from sidecar.client import run as runs
from sidecar.client.compat import DatasetTracker, enhance_wandb_logging, log_evaluation_metrics_3d

GUIDE = {
    "dt": 0.5, "tokens_per_sec": 1000.0, "mfu": 41.5, "flops_so_far": 1e15, "total_training_time": 60.0,
    "training_stage": "midtraining", "train_loss": 2.5, "train_lrm": 0.9,
}  # fmt: skip


def test_a_nanochat_scripts_call_arrives_under_canonical_names(last) -> None:
    run = sidecar.init("nanochat")
    enhance_wandb_logging(wandb_run=run, step=100, device="cpu", dataset_name="FineWeb-EDU", **GUIDE)
    found = last(run)
    assert found == {
        "performance/batch_time_ms": 500.0, "train/tokens_per_second": 1000.0, "train/mfu_reported": 41.5,
        "train/flops_total": 1e15, "train/total_training_time_seconds": 60.0, "train/loss": 2.5,
        "train/lr_multiplier": 0.9, "dataset/current": "FineWeb-EDU",
    }  # fmt: skip


def test_zeros_that_stand_for_not_measured_are_left_out_with_one_warning(last) -> None:
    run = sidecar.init("nanochat")
    with pytest.warns(UserWarning, match="not measured") as caught:
        enhance_wandb_logging(
            wandb_run=run, step=1, device="cpu", dt=0.0, tokens_per_sec=0.0, mfu=0.0, flops_so_far=0.0,
            total_training_time=0.0, training_stage="sft", train_loss=1.5, num_tokens=7, lrm=1.0,
        )  # fmt: skip
    assert len(caught) == 1
    assert last(run) == {"train/loss": 1.5, "train/num_tokens": 7, "train/lr_multiplier": 1.0}


def test_a_row_at_a_step_that_has_passed_is_kept_as_late(listener) -> None:
    run = sidecar.init("nanochat")
    enhance_wandb_logging(run, 20, "cpu", **GUIDE)
    enhance_wandb_logging(run, 10, "cpu", **GUIDE)
    run.finish()
    assert [row.step for row in listener.rows(run.id, ("log",), wait=lambda rows: True)] == [20]
    assert [row.step for row in listener.rows(run.id, ("late",))] == [10]


def test_without_any_run_one_is_begun_in_the_stage_of_the_call(listener) -> None:
    enhance_wandb_logging(None, 1, "cpu", **GUIDE)
    run = runs.current()
    assert (run.project, run.stage, run.captured) == ("uncategorized", "midtrain", "documents")


def test_accuracies_are_normalised_against_guessing(last) -> None:
    run = sidecar.init("nanochat")
    log_evaluation_metrics_3d(
        wandb_run=run, step=5, metrics={"mmlu_acc": 0.5, "gsm8k_acc": 0.1, "other": 3}, training_stage="sft"
    )
    found = last(run)
    assert found["eval/mmlu_acc"] == 0.5
    assert found["eval/mmlu_acc_normalized"] == pytest.approx(1 / 3)
    assert found["eval/gsm8k_acc_normalized"] == pytest.approx(0.1)
    assert found["eval/mean_acc"] == pytest.approx(0.3)
    assert found["other"] == 3


def test_consumption_is_reported_on_multiples_only_and_counted_exactly(listener) -> None:
    run = sidecar.init("nanochat")
    tracker = DatasetTracker(["SmolTalk", "MMLU", "GSM8K"], [460_000, 100_000, 8_000])
    for step in range(25):
        tracker.increment("SmolTalk")
        tracker.increment("GSM8K", 2)
        tracker.log_step(run, step, log_every=10)
    assert tracker.examples_seen == {"SmolTalk": 25, "MMLU": 0, "GSM8K": 50}
    run.finish()
    rows = listener.rows(run.id, ("dataset",))
    assert [row.step for row in rows] == [0, 10, 20]
    assert sum(row.metrics["dataset/SmolTalk/samples"] for row in rows) == 21
    assert sum(row.metrics["dataset/GSM8K/samples"] for row in rows) == 42
    state = listener.projector(run.id)[0].state
    assert state.facts["dataset_sizes"] == {"SmolTalk": 460_000, "MMLU": 100_000, "GSM8K": 8_000}
    assert sum(state.facts["dataset_sizes"].values()) == 568_000


def test_a_loop_that_reports_steps_carries_the_consumption_on_them(listener) -> None:
    run = sidecar.init("nanochat")
    tracker = DatasetTracker(["A", "B"], [10, 20])
    for step in range(3):
        tracker.increment("A", tokens=5)
        tracker.log_step(run, step, log_every=1)
        run.step(step, loss=1.0)
    run.finish()
    assert sum(row.metrics["dataset/A/tokens"] for row in listener.rows(run.id, ("dataset",))) == 15


@pytest.mark.parametrize(("names", "sizes"), [(["a"], [1, 2]), (["a"], [0]), (["a", "a"], [1, 1])])
def test_a_mixture_that_makes_no_sense_is_refused(names, sizes) -> None:
    with pytest.raises(ValueError, match="names|sizes|name"):
        DatasetTracker(names, sizes)


def test_an_unknown_dataset_counts_as_unknown_unless_strict() -> None:
    tracker = DatasetTracker(["a"], [1])
    tracker.increment("b")
    assert tracker.examples_seen["unknown"] == 1
    with pytest.raises(KeyError):
        DatasetTracker(["a"], [1], strict=True).increment("b")


def test_no_call_ever_raises_into_the_loop() -> None:
    run = sidecar.init("nanochat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        enhance_wandb_logging(run, "not a step", object(), **{**GUIDE, "train_loss": object()})
        enhance_wandb_logging(run, -5, None)
    run.finish()
    assert run.rejected["bad_step"] == 2
    assert run.rejected["unsupported_type"] == 1
