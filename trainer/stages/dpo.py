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
from trainer.flops import forward_flops
from trainer.model import GPT
from trainer.policy import frozen_copy, logps_of_targets, masked_mean, without_dropout
from trainer.stage import Stage
from trainer.tasks.example import TaskMixture


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
        self.prompts = sample_prompts(loaded)
        self.remarks = report.lines()
        if dropped:
            self.remarks += (f"{dropped} pairs left out: longer than the context of {config.seq_len}",)

    def wrap_model(self, model: GPT) -> nn.Module:
        self.reference = frozen_copy(without_dropout(model))
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """-log sigmoid of the margin between the two rewards, mean over pairs; and the rewards themselves."""
        all_logps, counts = torch.log_softmax(model(batch.inputs).float(), dim=-1), batch.targets != IGNORE
        with torch.no_grad():
            all_reference = torch.log_softmax(self.reference(batch.inputs).float(), dim=-1)
        logps, reference = (logps_of_targets(each, batch.targets) for each in (all_logps, all_reference))
        chosen, rejected = (self.beta * (logps - reference).sum(-1)).chunk(2)
        margin = chosen - rejected
        with torch.no_grad():
            numbers = {
                "rewards/chosen": chosen.mean(),
                "rewards/rejected": rejected.mean(),
                "rewards/accuracy": (margin > 0).float().mean(),
                "rewards/margin": margin.mean(),
                "dpo/kl": masked_mean(_token_kl(all_logps, all_reference), counts),
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


def _token_kl(logps: Tensor, reference: Tensor) -> Tensor:
    """KL(policy || reference) of the next token, in nats, (batch, time); both are (batch, time, vocabulary).

    Exact: a sum over the vocabulary. Estimators from the tokens alone (Schulman, "Approximating KL", 2020) need tokens
    that the policy drew, but these are the data's: r - 1 - log r, with r = p_reference / p, grows without bound on the
    rejected replies, which DPO makes unlikely. Source: the sequential KL of Zeng et al. 2024 (TDPO), here per token.
    """
    return F.kl_div(reference, logps, log_target=True, reduction="none").sum(-1)


def _chosen_nll(logps: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of the chosen replies per token, a mean over pairs. DPO's own loss does not mind if both
    replies become unlikely (Pang et al. 2024)."""
    return -(logps.chunk(2)[0].sum(-1) / counts.chunk(2)[0].sum(-1).clamp(min=1)).mean()
