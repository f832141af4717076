"""What outlets get instead of every row under every name: a period, and further spellings."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar import wire
from sidecar.metrics import ALIASES
from sidecar.rows import Row, RunInfo
from sidecar.sinks.names import PROFILES, spelled
from sidecar.sinks.period import StepSampler, period_of

from .harness import FAST, Manager, Run
from .stand_ins import delivered

pytestmark = pytest.mark.usefixtures("stand_ins")


def row(kind: str, step: int | None = None, **metrics: Any) -> Row:
    return Row("run", 0, 0, step, 0.0, kind, {name.replace("__", "/"): value for name, value in metrics.items()})


def metrics_of(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.metrics for row in rows]


def test_a_period_keeps_every_so_many_steps_and_all_that_is_not_periodic() -> None:
    rows = [row("step", step, loss=step) for step in range(7)] + [row("log", 5, val=1.0), row("text", 5, a="b")]
    kept = metrics_of(StepSampler().feed(rows, 3))
    assert kept == [{"loss": 0}, {}, {}, {"loss": 3}, {}, {}, {"loss": 6}, {"val": 1.0}, {"a": "b"}]


def test_hardware_between_two_publications_is_summed_up_beside_a_reading_as_it_was() -> None:
    sampler = StepSampler()
    readings = [row("hardware", cpu=value) for value in (10.0, 30.0, 20.0)]
    first = sampler.feed([readings[0], row("step", 1, loss=1.0), readings[1]], 2)
    second = sampler.feed([row("step", 2, loss=1.0), readings[2]], 2)
    assert metrics_of(first) == [{"cpu": 10.0, "cpu_min": 10.0, "cpu_mean": 10.0, "cpu_max": 10.0}, {}, {}]
    assert metrics_of(second)[1] == {"cpu": 20.0, "cpu_min": 20.0, "cpu_mean": 25.0, "cpu_max": 30.0}


def test_a_period_of_one_is_every_row_with_nothing_added() -> None:
    rows = [row("hardware", cpu=10.0), row("step", 1, loss=1.0)]
    assert StepSampler().feed(rows, 1) == rows


def test_what_rides_on_a_step_goes_with_it_and_a_phase_of_its_own_always_goes() -> None:
    def record(seq: int, kind: str, step: int, **metrics: Any) -> Row:
        return msgspec.structs.replace(row(kind, step, **metrics), seq=seq)

    riding = [
        record(seq, kind, step, value=float(step))
        for seq, step in enumerate((1, 2, 3))
        for kind in ("phase", "dataset", "step")
    ]
    alone = [record(7, "phase", 3, phase__evaluation=5.0), record(8, "dataset", 3, dataset__a__tokens=9)]
    kept = metrics_of(StepSampler().feed([*riding, *alone], 2))
    assert kept == [{}] * 3 + [{"value": 2.0}] * 3 + [{}] * 3 + [{"phase/evaluation": 5.0}, {"dataset/a/tokens": 9}]


@pytest.mark.parametrize(
    ("asked", "stage", "config", "sinks", "steps"),
    [
        (1, "pretrain", {}, None, 1), (7, "pretrain", {}, ["wandb:3"], 7), ("preset", "pretrain", {}, None, 100),
        ("preset", "midtrain", {}, ["wandb"], 10), ("preset", "sft", {"log_train_freq": 3}, None, 50),
        ("preset", "dpo", {"log_train_freq": 3}, None, 3), ("preset", None, {"log_train_freq": "x"}, None, 10),
        (1, "sft", {"log_train_freq": 3}, None, 1), (1, "sft", {}, ["wandb:20", "otlp"], 20),
        (1, "sft", {}, ["otlp:20"], 1), (1, "sft", {}, ["configured:5"], 5), (1, "sft", {}, ["wandb:0"], 1),
        (1, "sft", {}, ["wandb:often"], 1), (None, "sft", {}, ["configured:5"], 1), (None, "sft", {}, ["wandb:5"], 5),
    ],
)  # fmt: skip
def test_the_period_is_what_the_sidecar_was_told_else_what_the_run_asks_for_else_one(
    asked: Any, stage: str | None, config: dict[str, Any], sinks: list[str] | None, steps: int
) -> None:
    assert period_of(asked, "wandb", RunInfo("run", stage=stage, config=config, sinks=sinks)) == steps


def test_a_run_asks_for_a_period_by_its_sinks(tmp_path: Path) -> None:
    run = Run(tmp_path, sinks=["remote:4", "recorder:3", "configured:2"])
    with Manager(run, "second") as manager:
        run.steps(1, 9)
        manager.drain()
    kept = {name: [row[2] for row in delivered(tmp_path, name) if row[1] == "step" and row[3]] for name in
            ("remote", "recorder", "second")}  # fmt: skip
    assert kept == {"remote": [4, 8], "recorder": [3, 6, 9], "second": list(range(1, 10))}


@pytest.mark.parametrize(
    ("words", "sinks"),
    [
        ([], None), (["--log_train_freq", "5"], ["configured:5"]),
        (["--log_train_freq", "5", "--log_backend", "wandb,tensorboard"], ["wandb:5", "tensorboard:5"]),
        (["--log_train_freq", "5", "--run", "dummy"], ["dummy:5"]),
    ],
)  # fmt: skip
def test_the_reference_trainer_asks_by_its_own_flag(words: list[str], sinks: list[str] | None) -> None:
    from trainer.config import Config
    from trainer.flags import parse
    from trainer.monitoring import requested_sinks

    assert requested_sinks(parse(Config, "pretrain", words)) == sinks


def test_one_number_stands_under_several_names() -> None:
    (second,) = spelled([row("step", 1, train__grad_norm=0.5)], "s2")
    assert second.metrics == {"train/grad_norm": 0.5, "batch/grad_norm": 0.5, "gradients/global_norm": 0.5}
    (third,) = spelled([row("log", 1, val__loss=2.0, val__accuracy=0.5)], "s3")
    assert third.metrics == {"val/loss": 2.0, "val/accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.5}
    assert spelled([row("text", 1, val__loss="words")], "s3")[0].metrics == {"val/loss": "words"}


def test_what_was_sent_under_a_spelling_is_not_overruled() -> None:
    (second,) = spelled([row("log", 1, val__loss=2.0, eval__loss=3.0)], "s2")
    assert second.metrics == {"val/loss": 2.0, "eval/loss": 3.0}


def test_spellings_agree_with_the_catalogue() -> None:
    """The catalogue reads the same words on their way in."""
    for profile in PROFILES.values():
        for canonical, spellings in profile.items():
            assert {ALIASES[spelling] for spelling in spellings if spelling in ALIASES} <= {canonical}


@pytest.mark.parametrize("profile", [None, "s3"])
def test_spellings_reach_outlets_for_people(tmp_path: Path, profile: str | None) -> None:
    run = Run(tmp_path)
    policy = FAST.__class__(pace_seconds=0.0, poll_seconds=0.05, names=profile)
    with Manager(run, "remote", policy=policy) as manager:
        run.steps(0, 0)
        run.emit(wire.Log(run.now_ns, 0, 0, {"val/loss": 2.0}))
        manager.drain()
    names = {name for row in delivered(tmp_path, "remote") for name in row[3]}
    assert {"train/learning_rate", "val/loss"} <= names
    assert names.isdisjoint({"train/lr", "val_loss"}) == (profile is None)
