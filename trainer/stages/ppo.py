"""Reinforcement learning by PPO: draw replies, see which are right, make what led to them likelier.

    python -m trainer ppo --out runs/a --from_weight dpo

Given: a Config; prompts whose answers can be checked. Hands on: a PolicyTraining stage to the loop.
Never: asks a reward model: a reply is worth 1 if its final number is right, else 0, less the price of straying.

A rollout is ``rollout_batches`` batches of replies; each is learnt from ``ppo_epochs`` times before new ones are drawn.
Sources: Schulman et al. 2017 (clipping), Ziegler et al. 2019 (the price of KL and how it is steered).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer import chat
from trainer.chat_stage import facts, load_tasks, some_prompts
from trainer.config import PpoConfig
from trainer.data.batch import IGNORE, Batch, Order
from trainer.distributed import World
from trainer.evaluate import evaluation_mode
from trainer.judge import judge
from trainer.model import GPT
from trainer.policy import ActorCritic, advantages_of, respond, token_logps, whitened
from trainer.run import run_stage
from trainer.stage import Stage, forward_flops, frozen_copy, mean_of
from trainer.tasks.example import Example, TaskMixture
from trainer.tasks.formats import is_right
from trainer.tokenizer import PAD

KL_HORIZON = 1_000
"""Replies over which the price of KL may double, or so."""
KL_ERROR_MAX = 0.2
ROUND = 8
"""Rows are padded to a multiple of this: narrow ones, for the replies are short."""


@dataclass(frozen=True)
class Replies(Batch):
    """Some of a rollout's replies, to be learnt from."""

    told: dict[str, float] = field(default_factory=dict)
    """What is to be said of the whole rollout."""
    drawn_tokens: int = 0
    """Of prompts and replies, if the rollout was drawn for this batch."""


class PolicyTraining(Stage):
    name = "ppo"
    chats = True
    batch_phase = "forward"  # Drawing replies is this stage's work, not a wait for somebody else's.

    def __init__(self, config: PpoConfig, world: World) -> None:
        self.config, self.world = config, world
        loaded, problems = load_tasks(self.name, config)
        self.mixture = TaskMixture({task.name: self._short(task.train) for task in loaded}, config.seed)
        self.judged = {task.name: task.val for task in loaded}
        replies = config.batch_size * config.rollout_batches
        share = {"batch_size": replies, "rank": world.rank, "world_size": world.size}
        self.order = Order(len(self.mixture), seed=config.seed, **share)
        self.order.require_a_batch(f"{loaded[0].name} (prompts)")
        self.updates = config.rollout_batches * config.ppo_epochs
        self.batches_per_epoch = self.order.batches_per_epoch * self.updates
        self.dataset_sizes = {name: len(part) for name, part in self.mixture.parts.items()}
        held_back = sum(map(len, self.judged.values()))
        lengths = [len(chat.render_prompt(self.mixture[i].prompt)) for i in range(len(self.mixture))]
        self.data_facts = facts(loaded, lengths, len(self.mixture), held_back, problems)
        self.prompts = some_prompts(loaded)
        self.remarks = problems.lines()
        self.kl_weight, self.rollouts, self.used = config.kl_weight, 0, self.updates
        self.experience = self._nothing_yet(replies)
        self.told: dict[str, float] = {}

    def learner(self, model: GPT) -> nn.Module:
        self.reference, self.actor_critic = frozen_copy(model), ActorCritic(model)
        return self.actor_critic

    # -- drawing replies -----------------------------------------------------------------------------------------------

    def next_batch(self) -> Batch:
        """The next batch of the current rollout, in an order of its own each time round; or the first of a new one."""
        fresh = self.used == self.updates
        drawn_tokens = self._roll_out() if fresh else 0
        self.used = 0 if fresh else self.used
        size, (round_, place) = self.config.batch_size, divmod(self.used, self.config.rollout_batches)
        self.used += 1
        generator = torch.Generator().manual_seed(self._seed(self.rollouts * 100 + round_))
        rows = torch.randperm(size * self.config.rollout_batches, generator=generator)[place * size :][:size]
        return self._batch({name: tensor[rows] for name, tensor in self.experience.items()}, drawn_tokens)

    def _roll_out(self) -> int:
        """New replies, and how they were judged; the number of tokens read and drawn."""
        cursors = self.order.next().tolist()
        examples = [self.mixture[cursor] for cursor in cursors]
        prompts = [chat.render_prompt(example.prompt) for example in examples]
        model = self.actor_critic.actor
        with evaluation_mode(self.actor_critic):
            replies = respond(model, prompts, self.config.max_reply, seed=self._seed(self.rollouts))
            right = [is_right(e, chat.reply_of(reply)) for e, reply in zip(examples, replies, strict=True)]
            self.experience = self._judged(prompts, replies, torch.tensor(right, dtype=torch.float32))
        self.rollouts += 1
        drawn = sum(map(len, replies))
        rewards, length, count = self.world.sums(sum(right), drawn, len(replies))
        self.told |= {"ppo/reward": rewards / count, "ppo/response_length": length / count}
        return sum(map(len, prompts)) + drawn

    def _judged(self, prompts: list[list[int]], replies: list[list[int]], right: Tensor) -> dict[str, Tensor]:
        """Everything that learning wants to know, (replies, context): as drawn, and how good it was."""
        device = self.world.device
        tokens = torch.full((len(prompts), self.config.seq_len + 1), PAD)
        targets = torch.full_like(tokens, IGNORE)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            end = len(prompt) + len(reply)
            tokens[row, :end] = torch.tensor(prompt + reply)
            targets[row, len(prompt) : end] = torch.tensor(reply)
        inputs, targets = tokens[:, :-1], targets[:, 1:]
        width = _width(inputs)
        on_device = inputs[:, :width].to(device), targets[:, :width].to(device)
        with self.autocast():  # As when it is learnt from: else rounding alone would look like a change of the policy.
            logits, values = self.actor_critic(on_device[0])
            reference, _ = token_logps(self.reference(on_device[0]), on_device[1])
        logps, _ = token_logps(logits, on_device[1])
        mask = on_device[1] != IGNORE
        kl = logps - reference
        rewards = -self.kl_weight * kl
        last = (mask * torch.arange(1, width + 1, device=device)).argmax(-1)
        rewards[torch.arange(len(prompts), device=device), last] += right.to(device)
        advantages, returns = advantages_of(
            rewards, torch.where(mask, values, 0.0), mask, gamma=self.config.gamma, lam=self.config.gae_lambda
        )
        self._steer(kl.sum(-1).mean().item(), len(prompts))
        advantages = whitened(advantages, mask, self.world.sums)
        found = {"logps": logps, "values": values, "advantages": advantages, "returns": returns}
        wide = {n: torch.nn.functional.pad(t.float().cpu(), (0, inputs.size(1) - width)) for n, t in found.items()}
        return {"inputs": inputs.contiguous(), "targets": targets.contiguous(), **wide}

    def _steer(self, kl: float, replies: int) -> None:
        """Dearer when the policy strays further than the target, cheaper when less; alike on all ranks."""
        total, count = self.world.sums(kl * replies, replies)
        kl = total / count
        error = max(-KL_ERROR_MAX, min(KL_ERROR_MAX, kl / self.config.kl_target - 1))
        self.kl_weight *= 1 + error * count / KL_HORIZON
        self.told |= {"ppo/kl": kl, "ppo/kl_weight": self.kl_weight}

    def _batch(self, rows: dict[str, Tensor], drawn_tokens: int) -> Replies:
        inputs, targets = rows.pop("inputs"), rows.pop("targets")
        width = _width(inputs)
        inputs, targets = inputs[:, :width].contiguous(), targets[:, :width].contiguous()
        padding = int((inputs == PAD).sum())
        name = self.mixture.names[0] if len(self.mixture.names) == 1 else " + ".join(self.mixture.names)
        return Replies(
            inputs, targets, {name: (len(inputs), inputs.numel() - padding)}, padding=padding,
            loss_tokens=int((targets != IGNORE).sum()), extra={n: t[:, :width] for n, t in rows.items()},
            told=dict(self.told), drawn_tokens=drawn_tokens,
        )  # fmt: skip

    # -- learning from them --------------------------------------------------------------------------------------------

    def loss(self, learner: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """Clipped policy loss, clipped value loss and entropy, means over the replies' tokens."""
        logits, values = learner(batch.inputs)
        logps, entropy = token_logps(logits, batch.targets)
        old, mask, clip = batch.extra, batch.targets != IGNORE, self.config.clip
        ratio = (logps - old["logps"]).exp()
        gain = torch.minimum(ratio * old["advantages"], ratio.clamp(1 - clip, 1 + clip) * old["advantages"])
        near = old["values"] + (values - old["values"]).clamp(-clip, clip)
        misses = torch.maximum((values - old["returns"]).square(), (near - old["returns"]).square())
        policy_loss, value_loss, spread = -mean_of(gain, mask), 0.5 * mean_of(misses, mask), mean_of(entropy, mask)
        loss = policy_loss + self.config.value_weight * value_loss - self.config.entropy_weight * spread
        with torch.no_grad():
            clipped = mean_of(((ratio - 1).abs() > clip).float(), mask)
        return loss, {
            **batch.told,
            "ppo/policy_loss": policy_loss.detach(),
            "ppo/value_loss": value_loss.detach(),
            "ppo/entropy": spread.detach(),
            "ppo/clip_fraction": clipped,
        }

    def flops(self, model: GPT, batch: Any) -> float:
        """A step; where replies were drawn for it, also the forward passes to draw and to score them twice."""
        return 3 * forward_flops(model, batch.tokens + batch.drawn_tokens)

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """Held-back problems, answered with the likeliest reply."""
        most = self.config.judge_examples
        return judge(model, self.judged, world, most=most, reply_tokens=self.config.max_reply)

    # -- resuming ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            **self.order.state(), "kl_weight": self.kl_weight, "rollouts": self.rollouts, "used": self.used,
            "reference": self.reference.state_dict(), "value": self.actor_critic.value.state_dict(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.order.load_state(state)
        self.kl_weight, self.rollouts, self.used = state["kl_weight"], state["rollouts"], state["used"]
        self.reference.load_state_dict(state["reference"])
        self.actor_critic.value.load_state_dict(state["value"])

    def rank_state(self) -> dict[str, Tensor]:
        told = torch.tensor([self.told.get(name, 0.0) for name in TOLD], dtype=torch.float64)
        return {**self.experience, "told": told}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        told = state.pop("told").tolist()
        self.told, self.experience = dict(zip(TOLD, told, strict=True)), state

    # -- small things --------------------------------------------------------------------------------------------------

    def _short(self, examples: list[Example]) -> list[Example]:
        """Those whose prompt leaves room for a reply."""
        room = self.config.seq_len - self.config.max_reply
        return [example for example in examples if len(chat.render_prompt(example.prompt)) <= room]

    def _seed(self, number: int) -> int:
        """One of its own for each rank and rollout."""
        return (self.config.seed * 1_000_003 + number) * self.world.size + self.world.rank

    def _nothing_yet(self, replies: int) -> dict[str, Tensor]:
        shape = (replies, self.config.seq_len)
        whole = {name: torch.zeros(shape, dtype=torch.int64) for name in ("inputs", "targets")}
        return whole | {name: torch.zeros(shape) for name in ("logps", "values", "advantages", "returns")}


TOLD = ("ppo/reward", "ppo/response_length", "ppo/kl", "ppo/kl_weight")


def _width(inputs: Tensor) -> int:
    """Up to the last token that is no padding, rounded up."""
    used = int((inputs != PAD).any(0).nonzero().max()) + 1 if (inputs != PAD).any() else 1
    return min(inputs.size(1), -(-used // ROUND) * ROUND)


def run(config: PpoConfig) -> None:
    run_stage(PolicyTraining, config)
