"""Direct preference optimization (DPO): make the better of two replies likelier, close to a frozen reference.

    python -m trainer dpo --out runs/a --from_weight sft

Given: a Config. Hands on: a PreferenceTraining stage to the loop.
Source: Rafailov et al. 2023, equation 7. A reply's reward is beta * (log p - log p of the frozen reference).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.chat_stage import dataset_facts, load_tasks, sample_prompts
from trainer.config import DpoConfig
from trainer.data.batch import IGNORE, Batch
from trainer.data.preferences import PreferencePairs
from trainer.distributed import World
from trainer.evaluate import evaluation_mode
from trainer.model import GPT
from trainer.policy import token_logps
from trainer.stage import Stage, forward_flops, frozen_copy, masked_mean
from trainer.tasks.example import Example, Message, Task, TaskMixture


class PreferenceTraining(Stage):
    name = "dpo"
    chats = True
    loss_is_per_token = False  # Every pair counts the same, however long its replies.

    def __init__(self, config: DpoConfig, world: World) -> None:
        loaded, report = load_tasks(self.name, config)
        self.beta, self.chosen_weight = config.beta, config.chosen_weight
        share: dict[str, Any] = {
            "seq_len": config.seq_len, "batch_size": config.batch_size, "rank": world.rank, "world_size": world.size,
            "fixed": config.compile,
        }  # fmt: skip
        mixture = TaskMixture({task.name: task.train for task in loaded}, config.seed)
        self.train_loader = PreferencePairs(mixture, seed=config.seed, **share)
        self.val_loader = PreferencePairs(
            TaskMixture({task.name: task.val for task in loaded}, config.seed), shrink=True, **share
        )
        self.batches_per_epoch = self.train_loader.batches_per_epoch
        self.dataset_sizes = {name: len(part) for name, part in mixture.parts.items()}
        self.data_facts = dataset_facts(
            loaded, self.train_loader.lengths(), self.train_loader.count, self.val_loader.count, report
        )
        self.data_facts["dataset/dropped_samples"] = dropped = self.train_loader.dropped
        self.prompts = sample_prompts([_as_questions(task) for task in loaded])
        self.remarks = report.lines()
        if dropped:
            self.remarks += (f"{dropped} pairs left out: longer than the context of {config.seq_len}",)

    def wrap_model(self, model: GPT) -> nn.Module:
        self.reference = frozen_copy(model)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """-log sigmoid of the margin between the two rewards, mean over pairs; and the rewards themselves."""
        logps, counts = token_logps(model(batch.inputs), batch.targets), batch.targets != IGNORE
        with torch.no_grad():
            reference = token_logps(self.reference(batch.inputs), batch.targets)
        chosen, rejected = (self.beta * (logps - reference).sum(-1)).chunk(2)
        margin = chosen - rejected
        with torch.no_grad():
            numbers = {
                "rewards/chosen": chosen.mean(),
                "rewards/rejected": rejected.mean(),
                "rewards/accuracy": (margin > 0).float().mean(),
                "rewards/margin": margin.mean(),
                "dpo/kl": _estimated_kl(logps - reference, counts),
            }
        return -F.logsigmoid(margin).mean() + self.chosen_weight * _chosen_nll(logps, counts), numbers

    def flops(self, model: GPT, batch: Batch) -> float:
        """A step, and the reference's forward pass."""
        return 4 * forward_flops(model, batch.tokens)

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """Means over held-out pairs: val/loss is DPO's own, so there is no perplexity."""
        rows = []
        with evaluation_mode(model):
            for batch in self.held_out(iters, world):
                with self.autocast():
                    loss, numbers = self.loss(model, batch)
                rows.append(torch.stack([loss, numbers["rewards/accuracy"], numbers["rewards/margin"]]))
        *sums, count = world.sum_over_ranks(*torch.stack(rows).double().sum(0).tolist(), len(rows))
        names = ("val/loss", "val/rewards_accuracy", "val/rewards_margin")
        return {name: value / count for name, value in zip(names, sums, strict=True)}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "reference": self.reference.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.reference.load_state_dict(state["reference"])


def _estimated_kl(log_ratios: Tensor, counts: Tensor) -> Tensor:
    """KL estimate in nats per token: (r - 1) - log r, with r = p_reference / p, on the replies' tokens.

    Never negative; unbiased only for replies that the policy wrote itself. Schulman, "Approximating KL", 2020.
    """
    return masked_mean(torch.expm1(-log_ratios) + log_ratios, counts)


def _chosen_nll(logps: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen replies per token, a mean over pairs. DPO's own loss does not mind if both
    replies become unlikely (Pang et al. 2024)."""
    return -(logps.chunk(2)[0].sum(-1) / counts.chunk(2)[0].sum(-1).clamp(min=1)).mean()


def _as_questions(task: Task[Any]) -> Task[Example]:
    return Task(task.name, [], [Example((*pair.prompt, Message("assistant", ""))) for pair in task.val[:1]])
