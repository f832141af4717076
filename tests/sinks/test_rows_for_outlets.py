"""What outlets get instead of every row under every name: a period, and further spellings."""

from pathlib import Path
from typing import Any

import pytest

from sidecar import wire
from sidecar.metrics import ALIASES
from sidecar.rows import Row
from sidecar.sinks.names import PROFILES, spelled
from sidecar.sinks.period import Thinner

from .harness import FAST, Manager, Run
from .stand_ins import delivered

pytestmark = pytest.mark.usefixtures("stand_ins")


def row(kind: str, step: int | None = None, **metrics: Any) -> Row:
    return Row("run", 0, 0, step, 0.0, kind, {name.replace("__", "/"): value for name, value in metrics.items()})


def metrics_of(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.metrics for row in rows]


def test_a_period_keeps_every_so_many_steps_and_all_that_is_not_periodic() -> None:
    rows = [row("step", step, loss=step) for step in range(7)] + [row("log", 5, val=1.0), row("text", 5, a="b")]
    kept = metrics_of(Thinner(3).feed(rows))
    assert kept == [{"loss": 0}, {}, {}, {"loss": 3}, {}, {}, {"loss": 6}, {"val": 1.0}, {"a": "b"}]


def test_hardware_between_two_publications_is_summed_up_beside_a_reading_as_it_was() -> None:
    thinner = Thinner(2)
    readings = [row("hardware", cpu=value) for value in (10.0, 30.0, 20.0)]
    first = thinner.feed([readings[0], row("step", 1, loss=1.0), readings[1]])
    second = thinner.feed([row("step", 2, loss=1.0), readings[2]])
    assert metrics_of(first) == [{"cpu": 10.0, "cpu_min": 10.0, "cpu_mean": 10.0, "cpu_max": 10.0}, {}, {}]
    assert metrics_of(second)[1] == {"cpu": 20.0, "cpu_min": 20.0, "cpu_mean": 25.0, "cpu_max": 30.0}


def test_a_period_of_one_is_every_row_with_nothing_added() -> None:
    rows = [row("hardware", cpu=10.0), row("step", 1, loss=1.0)]
    assert Thinner(1).feed(rows) == rows


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
