"""Preferences as batches: the chosen replies in the upper half of the rows, the rejected in the lower.

Given: Preferences. Hands on: Batches of twice ``batch_size`` rows whose targets are the replies only.
Never: gives the two replies of a pair a different prompt, also not by cutting: a pair that is too long is left out.
"""

import torch

from trainer import chat
from trainer.data.batch import IGNORE, Batch, Order
from trainer.data.chats import ROUND
from trainer.tasks.example import Message, Preference, TaskMixture
from trainer.tokenizer import PAD

Row = tuple[list[int], list[bool]]


class Pairs(Order):
    def __init__(
        self,
        mixture: TaskMixture[Preference],
        *,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.seq_len = seq_len
        self.rows: list[tuple[str, Row, Row]] = []
        for cursor in range(len(mixture)):
            pair = mixture[cursor]
            chosen, rejected = (
                chat.render((*pair.prompt, Message("assistant", reply))) for reply in (pair.chosen, pair.rejected)
            )
            if max(len(chosen[0]), len(rejected[0])) <= seq_len + 1:
                self.rows.append((mixture.source(cursor), chosen, rejected))
        self.dropped = len(mixture) - len(self.rows)
        super().__init__(len(self.rows), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.require_a_batch(f"preferences that fit into {seq_len} tokens ({self.dropped} do not)")

    def lengths(self) -> list[int]:
        return [len(row[0]) for _, *pair in self.rows for row in pair]

    def next_batch(self) -> Batch:
        return self.batch(self.next().tolist())

    def batch(self, numbers: list[int]) -> Batch:
        pairs = [self.rows[number] for number in numbers]
        rows = [chosen for _, chosen, _ in pairs] + [rejected for _, _, rejected in pairs]
        width = min(self.seq_len, -(-(max(len(ids) for ids, _ in rows) - 1) // ROUND) * ROUND)
        tokens, targets = torch.full((len(rows), width + 1), PAD), torch.full((len(rows), width + 1), IGNORE)
        for place, (ids, learn) in enumerate(rows):
            tokens[place, : len(ids)] = torch.tensor(ids)
            targets[place, : len(ids)] = torch.where(torch.tensor(learn), torch.tensor(ids), IGNORE)
        inputs, targets = tokens[:, :-1].contiguous(), targets[:, 1:].contiguous()
        datasets: dict[str, tuple[int, int]] = {}
        for name, chosen, rejected in pairs:
            samples, read = datasets.get(name, (0, 0))
            datasets[name] = (samples + 1, read + len(chosen[0]) + len(rejected[0]))
        return Batch(
            inputs, targets, datasets, padding=int((inputs == PAD).sum()),
            loss_tokens=int((targets != IGNORE).sum()), count=len(pairs),
        )  # fmt: skip
