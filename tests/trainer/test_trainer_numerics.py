"""The trainer's mathematics is the field's: here are figures that transformers, trl and lm-eval computed from the same
weights and data (``python -m benchmarks.numerics --record``), and those of trl's former PPO."""

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import numerics
from trainer.data.batch import IGNORE
from trainer.distributed import World
from trainer.policy import ActorCritic, frozen_copy
from trainer.stages.ppo import PolicyTraining, ReplyBatch
from trainer.task_eval import estimate_pass_at_k
from trainer.tokenizer import ASSISTANT_END, BOS

THEIRS = json.loads(numerics.RECORDED.read_text())
SETTINGS = {"seq_len": 32, "gamma": 0.97, "gae_lambda": 0.9, "kl_target": 6.0, "clip": 0.2, "value_weight": 0.3,
            "entropy_weight": 0.0, "kl_weight": 0.02}  # fmt: skip

TRL_PPO: dict[str, Any] = {
    "advantages": [
        0.72465, 1.02768, 1.29352, 1.56674, -1.00371, -0.86513, -1.02996, -1.02007, -1.03444, -1.021, -0.9173,
        -1.00306, -1.03197, -1.01537, -0.02533, 0.16744, 0.32826, 0.51749, 0.73437, 0.98897, 1.18976, 1.42847,
    ],
    "returns": [
        0.65753, 0.75731, 0.87138, 1.00077, 0.01625, 0.01837, 0.01499, 0.0137, 0.00895, 0.00639, 0.0099, 0.0072,
        0.00202, 0.00105, 0.38751, 0.44488, 0.50983, 0.58465, 0.67057, 0.7698, 0.87785, 1.00062,
    ],
    "kl": -0.13307, "policy_loss": -0.01233, "value_loss": 0.14819, "entropy": 4.67605, "loss": 0.03213,
    "grad_norm": 2.8279,
}  # fmt: skip
"""As trl 0.11.4 had them: PPOTrainer.compute_rewards, compute_advantages and loss, called with the log-probabilities,
values, rewards and mask of ``rollout``. (Later versions of trl have no PPO.)"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> numerics.Figures:
    return numerics.ours(tmp_path_factory.mktemp("numerics"))[0]


def test_there_is_a_figure_of_a_peer_for_each_of_ours(ours) -> None:
    assert ours.keys() == THEIRS.keys()


@pytest.mark.parametrize("name", THEIRS)
def test_a_figure_is_the_one_that_the_peer_computed(ours, name: str) -> None:
    _, values = THEIRS[name]
    assert numerics.apart(ours[name], values) <= numerics.bound(name)


def rollout() -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    """Four replies of a policy that is not the reference any more: the stage, what it made of them, who was right."""
    actor = numerics.gpt()
    stage = PolicyTraining.__new__(PolicyTraining)
    stage.config, stage.kl_weight = SimpleNamespace(**SETTINGS), SETTINGS["kl_weight"]
    stage.world, stage.rollout_metrics = World(0, 0, 1, torch.device("cpu")), {}
    stage.reference, stage.actor_critic = frozen_copy(actor), ActorCritic(actor)
    stage.actor_critic.value.weight.data.fill_(0.01)
    for parameter in actor.parameters():
        parameter.data *= 1.05
    prompts = [[BOS, *range(5, 5 + n)] for n in (3, 7, 2, 5)]
    replies = [[*b"abc", ASSISTANT_END], [*b"hello you"], [ASSISTANT_END], [*b"#### 12", ASSISTANT_END]]
    correct = torch.tensor([1.0, 0.0, 0.0, 1.0])
    with torch.no_grad():
        return stage, stage._make_experience(prompts, replies, correct), correct


def changed(stage: Any) -> None:
    """By as much as makes some of the ratios be clipped."""
    for parameter in stage.actor_critic.parameters():
        parameter.data *= 1.2


def test_ppo_is_that_of_trl() -> None:
    stage, experience, _ = rollout()
    mask = experience["targets"] != IGNORE
    kl = stage.rollout_metrics["ppo/kl"]
    changed(stage)
    extra = {name: experience[name] for name in ("logps", "values", "advantages", "returns")}
    loss, numbers = stage.loss(stage.actor_critic, ReplyBatch(experience["inputs"], experience["targets"], extra=extra))
    grads = torch.autograd.grad(loss, list(stage.actor_critic.parameters()))
    assert 0 < numbers["ppo/clip_fraction"] < 1
    found = {name: experience[name][mask].tolist() for name in ("advantages", "returns")}
    found |= {name: numbers[f"ppo/{name}"].item() for name in ("policy_loss", "value_loss", "entropy")}
    found |= {"kl": kl, "loss": loss.item(), "grad_norm": torch.stack([grad.norm() for grad in grads]).norm().item()}
    for name, values in TRL_PPO.items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=2e-5), name


@pytest.mark.parametrize("samples", [1, 5, 20])
def test_pass_at_k_is_the_estimate_of_the_human_eval_harness(samples: int) -> None:
    """There it is 1 - prod(1 - k / i) over i from n - c + 1 to n, or 1 where less than k fail."""
    for passed in range(samples + 1):
        for k in range(1, samples + 1):
            factors = (1 - k / i for i in range(samples - passed + 1, samples + 1))
            expected = 1.0 if samples - passed < k else 1 - math.prod(factors)
            assert estimate_pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-12)
