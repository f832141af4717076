"""The loss of each dataset: weighted by what counts, over micro-batches, without a second forward pass."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar
from sidecar import metrics, wire
from sidecar.client.run import Run
from tests.client.test_run import of_kind

torch = pytest.importorskip("torch")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    yield made
    made._emitter.pump.stop()
    made._emitter.emit = made._emitter._after_finish
    made._emitter.ring.remove()


def test_each_dataset_has_the_mean_of_its_tokens_over_all_micro_batches(run: Run) -> None:
    names = ["a", "b", "a", "a"]
    losses = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1)).abs().requires_grad_()
    mask = (torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(2)) > 0.3).long()
    for micro in range(2):
        run.dataset_loss(names, losses[micro], mask[micro])
    run.step(1)
    (event,) = of_kind(run, wire.Step)
    for name in ("a", "b"):
        rows = [i for i, each in enumerate(names) if each == name]
        kept = mask[:, rows].double()
        expected = (losses.detach()[:, rows].double() * kept).sum() / kept.sum()
        assert event.metrics[f"dataset/{name}/loss"] == pytest.approx(expected.item(), rel=1e-6)
        assert event.metrics[f"dataset/{name}/loss_weight"] == kept.sum().item()
    assert event.metrics["dataset/loss_weight"] == mask.sum().item()
    assert metrics.find("dataset/a/loss") is not None
    run.step(2)
    assert of_kind(run, wire.Step)[1].metrics == {}


def test_per_sample_losses_need_no_mask(run: Run) -> None:
    run.dataset_loss(["x", "y", "x"], torch.tensor([1.0, 5.0, 2.0]))
    run.step(1)
    assert of_kind(run, wire.Step)[0].metrics == {
        "dataset/x/loss": 1.5, "dataset/x/loss_weight": 2.0, "dataset/y/loss": 5.0, "dataset/y/loss_weight": 1.0,
        "dataset/loss_weight": 3.0,
    }  # fmt: skip


def test_nan_of_one_dataset_stays_with_it_and_a_masked_one_is_nothing(run: Run) -> None:
    losses = torch.tensor([[1.0, math.nan], [2.0, 4.0], [math.nan, 1.0]])
    run.dataset_loss(["a", "b", "c"], losses, torch.tensor([[1, 1], [1, 1], [0, 1]]))
    run.step(1)
    found = of_kind(run, wire.Step)[0].metrics
    assert math.isnan(found["dataset/a/loss"])
    assert (found["dataset/b/loss"], found["dataset/c/loss"]) == (3.0, 1.0)


def test_a_dataset_of_which_nothing_counts_has_no_loss(run: Run) -> None:
    run.dataset_loss(["a"], torch.ones(1, 2), torch.zeros(1, 2))
    run.step(1)
    assert of_kind(run, wire.Step)[0].metrics == {"dataset/a/loss_weight": 0.0, "dataset/loss_weight": 0.0}


def test_what_does_not_fit_is_counted_and_raises_nothing(run: Run) -> None:
    run.dataset_loss(["a"], torch.ones(2))
    run.dataset_loss(["a"], 3.0)
    run.dataset_loss(["a", "b"], torch.ones(2), torch.ones(3))
    run.step(1)
    assert run.rejected == {"bad_dataset_loss": 3}
    assert of_kind(run, wire.Step)[0].metrics == {}
