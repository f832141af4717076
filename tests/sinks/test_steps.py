"""A step of several ranks is one row at W&B, whatever comes between its rows, and whoever is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sidecar import wire
from sidecar.derive import joins
from sidecar.follow import Follower
from sidecar.rows import Projector, Row
from sidecar.sinks.cursors import Cursor
from sidecar.sinks.source import Policy, Source
from sidecar.sinks.steps import StepJoiner
from tests.derive.stream import Process, Record

from .harness import Manager, Run
from .test_runner import checkpointed
from .wandb_file import read_all

OWN = "own/value"
"""What only the lowest rank tells: the derived row alone has not got it."""


class Ranks:
    """Two of one run."""

    def __init__(self, tmp_path: Path, **hello: Any) -> None:
        self.first = Run(tmp_path, world_size=2, **hello)
        self.second = Run(tmp_path, session=8, rank=1, world_size=2, **hello)

    def low(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.first.steps(step, step, **{OWN: float(step)})

    def high(self, first: int, last: int) -> None:
        self.second.now_ns = self.first.now_ns
        self.second.steps(first, last, **{"train/loss": 10.0})


def history(tmp_path: Path) -> list[dict[str, Any]]:
    return [row for file in read_all(tmp_path, "run-1") for row in file.history]


def joined(step: int) -> float:
    return (4.0 / (1 + step) + 10.0) / 2


def test_a_step_is_one_row_at_wandb_when_a_delivery_ends_between_its_ranks_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    ranks = Ranks(tmp_path)
    ranks.low(0, 0)
    with Manager(ranks.first, "wandb") as manager:
        manager.drain()
        ranks.high(0, 0)
        manager.drain()
        ranks.low(1, 5)  # One rank's frame comes whole before the other's.
        manager.drain()
        psutil.Process(manager.manager._runners["run-1", "wandb"]._sink.pid).kill()
        ranks.high(1, 3)
        manager.drain()
        ranks.high(4, 5)
        ranks.low(6, 6)
        ranks.high(6, 6)
        manager.drain()
    rows = history(tmp_path)
    assert [row["train/global_step"] for row in rows] == list(range(7))
    assert [row["train/loss"] for row in rows] == [pytest.approx(joined(step)) for step in range(7)]
    assert [row[OWN] for row in rows] == list(range(7))
    assert [row["train/num_input_tokens_seen"] for row in rows] == [2000 * (step + 1) for step in range(7)]


def rows_of(ranks: Ranks, start: Cursor = Cursor()) -> list[tuple[int, Any]]:
    """(number, row) of all that is not empty."""
    run = ranks.first
    policy = Policy(one_row_per_step=True)
    source = Source(lambda number: Follower(run.store.path(run.run_id), run.run_id, number_max=number), start, policy)
    found: list[tuple[int, Any]] = []
    while (batch := source.next_batch()) is not None:
        found += [(number, row) for number, row in enumerate(batch.rows, batch.number) if row.metrics]
    source.close()
    return found


def test_whoever_starts_at_any_row_gets_the_same_rows_from_there_on(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path)
    for first in range(0, 12, 4):
        ranks.low(first, first + 3)
        checkpointed(ranks.first)
        ranks.high(first, first + 1)
        checkpointed(ranks.first)
        ranks.high(first + 2, first + 3)
    everything = rows_of(ranks)
    assert [row.step for _, row in everything] == list(range(12))
    assert all({OWN, "train/tokens_per_second"} <= row.metrics.keys() for _, row in everything[1:])
    for number in range(everything[-1][0] + 1):
        assert rows_of(ranks, Cursor(0, number)) == [pair for pair in everything if pair[0] >= number], number


def finish(ranks: Ranks) -> None:
    ranks.first.finish()
    ranks.second.finish()


def report_again(ranks: Ranks) -> None:
    ranks.high(0, 2)
    ranks.first.steps(2, 2, **{OWN: 99.0})


@pytest.mark.parametrize(
    ("then", "own"),
    [(finish, [(0, 0.0), (1, 1.0), (2, 2.0)]), (report_again, [(0, 0.0), (1, 1.0), (2, 2.0), (2, 99.0)])],
)
def test_no_value_waits_for_ever(tmp_path: Path, then: Callable[[Ranks], None], own: list[tuple[int, float]]) -> None:
    ranks = Ranks(tmp_path)
    ranks.low(0, 2)
    assert rows_of(ranks) == []
    then(ranks)
    assert [(row.step, row.metrics[OWN]) for _, row in rows_of(ranks) if OWN in row.metrics] == own


def two_ranks() -> tuple[Process, Process, Projector]:
    ranks, projector = (Process(0, 1), Process(1, 2)), Projector("run")
    for process in ranks:
        hello = process.hello(world_size=2)
        projector.greet(hello, hello.time_ns)
    return *ranks, projector


def joined_rows(projector: Projector, records: list[Record]) -> list[Row]:
    """All that is not empty."""
    joiner = StepJoiner(projector.state)
    return [row for record in records for row in joiner.feed(projector.feed(record)) if row.metrics]


def test_of_each_step_there_is_one_row_with_the_joined_loss_and_what_else_was_logged_stays_in_its_place() -> None:
    first, second, projector = two_ranks()
    records = [p.step(i, loss=loss, tokens=1) for i in range(3) for p, loss in ((second, 3.0), (first, 1.0))]
    records.insert(2, first.record(wire.Log, step=0, metrics={"val/loss": 5.0}))
    rows = joined_rows(projector, records)
    assert [(row.kind, row.step) for row in rows] == [("derived", 0), ("log", 0), ("derived", 1), ("derived", 2)]
    assert rows[0].metrics["train/loss"] == 2.0
    assert rows[0].metrics["train/num_tokens"] == 1, "the lowest rank's own"
    assert rows[0].metrics["train/global_step"] == 0


def test_a_step_of_a_backlog_never_shows_a_higher_ranks_values_after_the_lowest_ranks() -> None:
    """After an outage all rows of one rank may come before those of the next."""
    for order in ((0, 1), (1, 0)):
        *ranks, projector = two_ranks()
        streams = [
            [p.raw_step(i, {"aux": float(p.rank), "train/loss": 1.0}, 0.001) for i in range(200)] for p in ranks
        ]
        rows = joined_rows(projector, [record for rank in order for record in streams[rank]])
        assert [row.metrics["aux"] for row in rows if "aux" in row.metrics] == [0.0] * 200
        assert [row.step for row in rows if "train/global_step" in row.metrics] == list(range(200))


def test_joining_does_not_change_the_rows_it_was_given() -> None:
    first, second, projector = two_ranks()
    joiner = StepJoiner(projector.state)
    for record in (first.step(1, loss=1.0), second.step(1, loss=3.0)):
        rows = projector.feed(record)
        before = [(row.kind, dict(row.metrics)) for row in rows]
        joiner.feed(rows)
        assert [(row.kind, row.metrics) for row in rows] == before


def test_steps_that_nothing_completes_are_handed_on_and_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "PENDING_JOINS_MAX", 16)
    first, _, projector = two_ranks()
    joiner, out = StepJoiner(projector.state), []
    for step in range(200):
        out += [row for row in joiner.feed(projector.feed(first.step(step, 0.0, loss=1.0))) if row.metrics]
        assert max(len(joiner._open), sum(map(len, joiner._open.values()))) <= 17
    assert [row.step for row in out] == list(range(200 - 16))
    assert {row.metrics["train/loss"] for row in out} == {1.0}
