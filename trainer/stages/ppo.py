"""Reinforcement learning by PPO: draw replies, see which are right, make what led to them likelier.

    python -m trainer ppo --out runs/a --from_weight dpo

Given: a Config; prompts whose answers can be checked. Hands on: a PolicyTraining stage to the loop.
Never: asks a reward model: a reply earns 1 if its final number is right, else 0, less the KL penalty per token.

A rollout is ``rollout_batches`` batches of replies; each is trained on ``ppo_epochs`` times before new ones are drawn.
Sources: Schulman et al. 2017 (clipping), Ziegler et al. 2019 (adaptive KL penalty).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import chat
from trainer.chat_stage import dataset_facts, load_tasks, sample_prompts
from trainer.config import PpoConfig
from trainer.data.batch import IGNORE, Batch, BatchSampler, batch_width, collate
from trainer.distributed import World
from trainer.evaluate import evaluation_mode
from trainer.flops import forward_flops
from trainer.generate import generate_replies
from trainer.model import GPT
from trainer.policy import (
    ActorCritic,
    compute_gae,
    frozen_copy,
    masked_mean,
    token_logps,
    token_logps_and_entropies,
    whiten,
    without_dropout,
)
from trainer.stage import Stage
from trainer.task_eval import evaluate_tasks
from trainer.tasks.example import Example, TaskMixture
from trainer.tasks.formats import is_correct
from trainer.tokenizer import PAD

KL_HORIZON = 1_000
"""Of the adaptive KL controller, in replies: its weight changes by at most KL_ERROR_CLIP, a share, in as many."""
KL_ERROR_CLIP = 0.2
WIDTH_MULTIPLE = 8
ROLLOUT_METRICS = ("ppo/reward", "ppo/response_length", "ppo/kl", "ppo/kl_weight")


@dataclass(frozen=True)
class ReplyBatch(Batch):
    """Some of a rollout's replies, to be trained on."""

    rollout_metrics: dict[str, float] = field(default_factory=dict)
    rollout_tokens: int = 0
    """Prompt and reply tokens, if the rollout was drawn for this batch."""


class PolicyTraining(Stage):
    name = "ppo"
    chats = True
    batch_phase = "forward"  # Drawing replies is work of this stage, not a wait for data.

    def __init__(self, config: PpoConfig, world: World) -> None:
        self.config, self.world = config, world
        loaded, report = load_tasks(self.name, config)
        fitting = {task.name: self._that_fit(task.train) for task in loaded}
        self.mixture = TaskMixture(fitting, config.seed)
        self.eval_tasks = {task.name: task.val for task in loaded}
        replies = config.batch_size * config.rollout_batches
        share: dict[str, Any] = {"batch_size": replies, "rank": world.rank, "world_size": world.size}
        self.sampler = BatchSampler(len(self.mixture), seed=config.seed, **share)
        dropped = sum(len(task.train) for task in loaded) - len(self.mixture)
        room = f"--max_reply {config.max_reply} in a context of {config.seq_len}"
        self.sampler.require_a_batch(
            f"prompts with room for {room} ({dropped} have none)", "--rollout_batches, or give them more room"
        )
        self.updates_per_rollout = config.rollout_batches * config.ppo_epochs
        self.batches_per_epoch = self.sampler.batches_per_epoch * self.updates_per_rollout
        self.dataset_sizes = {name: len(part) for name, part in self.mixture.parts.items()}
        lengths = [len(chat.render_prompt(self.mixture[i].prompt)) for i in range(len(self.mixture))]
        held_out = sum(map(len, self.eval_tasks.values()))
        self.data_facts = dataset_facts(loaded, lengths, len(self.mixture), held_out, report)
        self.data_facts["dataset/dropped_samples"] = dropped
        self.prompts = sample_prompts(loaded)
        self.remarks = report.lines()
        if dropped:
            self.remarks += (f"{dropped} prompts left out: no room for {room}",)
        self.resume_facts = {"rollout_batches": config.rollout_batches, "ppo_epochs": config.ppo_epochs}
        self.kl_weight, self.rollouts, self.updates = config.kl_weight, 0, self.updates_per_rollout
        self.experience: dict[str, Tensor] = {}
        self.rollout_metrics: dict[str, float] = {}

    def wrap_model(self, model: GPT) -> nn.Module:
        self.reference, self.actor_critic = frozen_copy(without_dropout(model)), ActorCritic(model)
        return self.actor_critic

    def prefetch(self, pin: bool, depth: int) -> None:
        """Nothing can be made ahead: the model itself writes the replies."""

    # -- rollouts ------------------------------------------------------------------------------------------------------

    def next_batch(self) -> Batch:
        """The next batch of the current rollout, shuffled anew in each PPO epoch; or the first of a new rollout."""
        rollout_tokens = 0
        if self.updates == self.updates_per_rollout:
            rollout_tokens, self.updates = self._rollout(), 0
        size, (ppo_epoch, place) = self.config.batch_size, divmod(self.updates, self.config.rollout_batches)
        self.updates += 1
        generator = torch.Generator().manual_seed(self._seed(self.rollouts * 100 + ppo_epoch))
        rows = torch.randperm(size * self.config.rollout_batches, generator=generator)[place * size :][:size]
        return self._batch({name: tensor[rows] for name, tensor in self.experience.items()}, rollout_tokens)

    def _rollout(self) -> int:
        """Draw replies and see which are right; returns the number of tokens read and drawn."""
        cursors = self.sampler.next().tolist()
        examples = [self.mixture[cursor] for cursor in cursors]
        prompts = [chat.render_prompt(example.prompt) for example in examples]
        with evaluation_mode(self.actor_critic):
            replies = generate_replies(
                self.actor_critic.actor, prompts, self.config.max_reply, seed=self._seed(self.rollouts)
            )
            correct = [is_correct(e, chat.reply_of(reply)) for e, reply in zip(examples, replies, strict=True)]
            self.experience = self._make_experience(prompts, replies, torch.tensor(correct, dtype=torch.float32))
        self.experience["dataset"] = torch.tensor([self.mixture.index_map[cursor][0] for cursor in cursors])
        self.rollouts += 1
        reply_tokens = sum(map(len, replies))
        rewards, length, count = self.world.sum_over_ranks(sum(correct), reply_tokens, len(replies))
        self.rollout_metrics |= {"ppo/reward": rewards / count, "ppo/response_length": length / count}
        return sum(map(len, prompts)) + reply_tokens

    def _make_experience(
        self, prompts: list[list[int]], replies: list[list[int]], correct: Tensor
    ) -> dict[str, Tensor]:
        """What the loss needs of each reply: tokens, log-probabilities as drawn, values, advantages, returns; all of
        shape (replies, context), on the CPU."""
        rows = [
            (torch.tensor(prompt + reply), torch.tensor([False] * len(prompt) + [True] * len(reply)))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        inputs, targets = collate(rows, self.config.seq_len)
        width, device = _used_width(targets), self.world.device
        read, predicted = inputs[:, :width].to(device), targets[:, :width].to(device)
        with self.autocast():  # As in training: rounding alone must not look like a change of the policy.
            logits, values = self.actor_critic(read)
            reference_logps = token_logps(self.reference(read), predicted)
        logps = token_logps(logits, predicted)
        mask = predicted != IGNORE
        kl = logps - reference_logps
        rewards = -self.kl_weight * kl
        last = (mask * torch.arange(1, width + 1, device=device)).argmax(-1)
        rewards[torch.arange(len(prompts), device=device), last] += correct.to(device)
        advantages, returns = compute_gae(rewards, values, mask, gamma=self.config.gamma, lam=self.config.gae_lambda)
        self._adapt_kl_weight(kl.sum(-1).mean().item(), len(prompts))
        advantages = whiten(advantages, mask, self.world.sum_over_ranks)
        found = {"logps": logps, "values": values, "advantages": advantages, "returns": returns}
        padded = {name: F.pad(t.float().cpu(), (0, inputs.size(1) - width)) for name, t in found.items()}
        return {"inputs": inputs, "targets": targets, **padded}

    def _adapt_kl_weight(self, kl: float, replies: int) -> None:
        """Raise it while the policy is further from the reference than the target, else lower it; same on all ranks.

        Compounded over replies, so that no rollout, however large, turns the penalty into a reward.
        """
        total, count = self.world.sum_over_ranks(kl * replies, replies)
        kl = total / count
        error = max(-KL_ERROR_CLIP, min(KL_ERROR_CLIP, kl / self.config.kl_target - 1))
        self.kl_weight *= (1 + error) ** (count / KL_HORIZON)
        self.rollout_metrics |= {"ppo/kl": kl, "ppo/kl_weight": self.kl_weight}

    def _batch(self, rows: dict[str, Tensor], rollout_tokens: int) -> ReplyBatch:
        names = [self.mixture.names[number] for number in rows.pop("dataset").tolist()]
        width = _used_width(rows["targets"], fixed=self.config.compile)
        rows = {name: tensor[:, :width].contiguous() for name, tensor in rows.items()}
        inputs, targets = rows.pop("inputs"), rows.pop("targets")
        sizes = (inputs != PAD).sum(-1).tolist()
        return ReplyBatch.of(
            inputs, targets, zip(names, sizes, strict=True), extra=rows,
            rollout_metrics=dict(self.rollout_metrics), rollout_tokens=rollout_tokens,
        )  # fmt: skip

    # -- training on them ----------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Clipped policy loss, clipped value loss and entropy bonus, means over the replies' tokens. As in CleanRL,
        the clip fraction counts each ratio beyond the range; trl's only those whose gradient that stops."""
        logits, values = model(batch.inputs)
        logps, entropies = token_logps_and_entropies(logits, batch.targets)
        old, mask, clip = batch.extra, batch.targets != IGNORE, self.config.clip
        ratio = (logps - old["logps"]).exp()
        objective = torch.minimum(ratio * old["advantages"], ratio.clamp(1 - clip, 1 + clip) * old["advantages"])
        clipped_values = old["values"] + (values - old["values"]).clamp(-clip, clip)
        errors = torch.maximum((values - old["returns"]).square(), (clipped_values - old["returns"]).square())
        policy_loss, value_loss = -masked_mean(objective, mask), 0.5 * masked_mean(errors, mask)
        entropy = masked_mean(entropies, mask)
        loss = policy_loss + self.config.value_weight * value_loss - self.config.entropy_weight * entropy
        with torch.no_grad():
            clip_fraction = masked_mean(((ratio - 1).abs() > clip).float(), mask)
        return loss, {
            **batch.rollout_metrics,
            "ppo/policy_loss": policy_loss.detach(),
            "ppo/value_loss": value_loss.detach(),
            "ppo/entropy": entropy.detach(),
            "ppo/clip_fraction": clip_fraction,
        }

    def flops(self, model: GPT, batch: Any) -> float:
        """A training step and, for a new rollout, three forward passes: generation, log-probabilities, reference."""
        return 3 * forward_flops(model, batch.tokens + batch.rollout_tokens)

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """Accuracy of greedy replies to held-out problems."""
        limits: dict[str, Any] = {"max_examples": self.config.eval_examples, "reply_tokens": self.config.max_reply}
        return evaluate_tasks(model, self.eval_tasks, world, **limits)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            **self.sampler.state(), "kl_weight": self.kl_weight, "rollouts": self.rollouts, "updates": self.updates,
            "reference": self.reference.state_dict(), "value": self.actor_critic.value.state_dict(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.sampler.load_state(state)
        self.kl_weight, self.rollouts, self.updates = state["kl_weight"], state["rollouts"], state["updates"]
        self.reference.load_state_dict(state["reference"])
        self.actor_critic.value.load_state_dict(state["value"])

    def rank_state(self) -> dict[str, Tensor]:
        metrics = [self.rollout_metrics.get(name, 0.0) for name in ROLLOUT_METRICS]
        return {**self.experience, "rollout_metrics": torch.tensor(metrics, dtype=torch.float64)}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        metrics = state.pop("rollout_metrics").tolist()
        self.rollout_metrics, self.experience = dict(zip(ROLLOUT_METRICS, metrics, strict=True)), state

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _that_fit(self, examples: list[Example]) -> list[Example]:
        """Those whose prompt leaves room for a reply."""
        room = self.config.seq_len - self.config.max_reply
        return [example for example in examples if len(chat.render_prompt(example.prompt)) <= room]

    def _seed(self, number: int) -> int:
        """A different one for each rank and rollout."""
        return (self.config.seed * 1_000_003 + number) * self.world.size + self.world.rank


def _used_width(targets: Tensor, *, fixed: bool = False) -> int:
    """Columns up to the last one with a target, rounded up. (The inputs do not tell: a model may write PAD.)"""
    used = (targets != IGNORE).any(0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return batch_width(longest, targets.size(1), fixed=fixed, multiple=WIDTH_MULTIPLE)
