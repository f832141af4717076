"""Whatever a script passes to the compat functions: training goes on, and what was lost is counted."""

import inspect
import math
from typing import Any

import numpy
import pytest
import torch

from sidecar.client.compat import (
    ComprehensiveWandbLogger,
    DatasetTracker,
    Logger,
    calculate_mfu,
    enhance_wandb_logging,
    evaluate,
    log_evaluation_metrics_3d,
)
from sidecar.client.mixture import MixtureTracker
from tests.client.test_run import Hostile, HostileMap

METHODS = [name for name in vars(ComprehensiveWandbLogger) if name.startswith("log_")]
ODD: dict[str, Any] = {
    "none": None, "text": "x", "object": object(), "nan": math.nan, "list": [1], "map": {"a": None},
    "hostile": Hostile(), "hostile map": HostileMap(a=1), "array": numpy.zeros(3),
    "meta": torch.empty((), device="meta"),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_no_argument_makes_a_logger_raise(odd: str) -> None:
    logger, value = ComprehensiveWandbLogger("p"), ODD[odd]
    for name in METHODS:
        method = getattr(logger, name)
        required = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
        method(*[value for p in required if p.kind is not p.VAR_KEYWORD])
        given = [p for p in inspect.signature(method).parameters.values() if p.kind is not p.VAR_KEYWORD]
        method(**{p.name: value for p in given})
    logger.log_custom({"good": 1.0}, step=3)
    plain = Logger("wandb")
    plain.log_metrics(value, step=value)
    plain.log_text(value, value, step=value)
    plain.log_histogram(value, value, step=value)


@pytest.mark.parametrize("odd", ODD)
def test_no_argument_makes_a_function_raise(odd: str) -> None:
    value = ODD[odd]
    enhance_wandb_logging(value, value, value, value, value, value, value, value, value, value, extra=value)
    log_evaluation_metrics_3d(value, value, value, value, chance=value)
    log_evaluation_metrics_3d(value, 1, {"a_acc": value, "b": 1})
    DatasetTracker(["a"], [1]).log_step(value, value, value)


def test_a_call_that_does_not_fit_is_told_at_once() -> None:
    wrong: Any = {"no_such": 1}
    with pytest.raises(TypeError, match="no_such"):
        log_evaluation_metrics_3d(None, 1, {}, **wrong)


def test_accuracies_of_numpy_and_torch_are_accuracies_and_a_certain_guess_normalises_nothing(last) -> None:
    logger = ComprehensiveWandbLogger("p")
    given: Any = {"mmlu_acc": numpy.float32(0.5), "gsm8k_acc": torch.tensor(0.25), "sure_acc": 1.0, 5: 1.0}
    log_evaluation_metrics_3d(logger.run, 1, given, chance={"sure": 1.0})
    found = last(logger.run)
    assert found["eval/mmlu_acc_normalized"] == pytest.approx(1 / 3)
    assert (found["eval/gsm8k_acc"], found["eval/sure_acc"]) == (0.25, 1.0)
    assert "eval/sure_acc_normalized" not in found
    assert found["eval/mean_acc"] == pytest.approx(1.75 / 3)


def test_sparse_and_missing_gradients_do_not_end_the_training(last) -> None:
    logger = ComprehensiveWandbLogger("p")
    embedding = torch.nn.Embedding(4, 4, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    logger.log_gradient_metrics(embedding)
    missing: Any = None
    logger.log_gradient_metrics(missing)
    logger.log_weight_metrics(missing)
    assert last(logger.run)["gradients/global_norm"] == 2.0
    assert logger.run is not None
    assert logger.run.rejected == {"bad_call": 2}


class PartlyFrozen(torch.nn.Module):
    """One part stays in evaluation mode; another does something when the mode changes, as adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.adapter, self.merged = torch.nn.Dropout(), torch.nn.Linear(1, 2), False
        self.frozen.eval()

    def train(self, mode: bool = True) -> "PartlyFrozen":
        super().train(mode)
        self.merged = not mode
        return self

    def forward(self, inputs: Any, targets: Any) -> Any:
        assert self.merged
        return self.adapter(inputs[..., None]), torch.tensor(math.nan)


def test_evaluation_leaves_each_module_in_its_mode_and_a_loss_of_nan_is_no_infinite_perplexity() -> None:
    model = PartlyFrozen()
    found = evaluate(model, [(torch.ones(2), torch.ones(2, dtype=torch.long))])
    assert math.isnan(found["val/loss"])
    assert math.isnan(found["val/perplexity"])
    assert (model.training, model.adapter.training, model.frozen.training, model.merged) == (True, True, False, False)


def test_a_data_type_of_torch_is_as_good_as_its_name() -> None:
    device = "NVIDIA H100 80GB HBM3"
    named, typed = (calculate_mfu(1e9, 1e5, device, dtype=each) for each in ("bfloat16", torch.bfloat16))
    assert named == typed is not None


@pytest.mark.parametrize("ratios", [[0, 0], [-1, 2], [math.nan, 1], [math.inf, 1]])
def test_planned_shares_that_are_none_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ValueError, match="ratios"):
        MixtureTracker(["a", "b"], [1, 2], ratios=ratios)
