"""Preference pairs as batches: the chosen replies in the upper half of the rows, the rejected in the lower.

Given: Preferences. Hands on: Batches of twice ``batch_size`` rows whose targets are the replies only.
Never: gives the two replies of a pair different prompts, not even by cutting: a pair that is too long is left out.
"""

import torch
from torch import Tensor

from trainer import chat
from trainer.data.batch import (
    Batch,
    BatchSampler,
    collate,
    count_by_dataset,
    count_loss_tokens,
    count_padding,
    round_up,
)
from trainer.tasks.example import Message, Preference, TaskMixture

WIDTH_MULTIPLE = 16
Row = tuple[Tensor, Tensor]
"""(token ids, loss mask)"""


class PreferencePairs(BatchSampler):
    def __init__(
        self, mixture: TaskMixture[Preference], *, seq_len: int, batch_size: int, seed: int = 0, rank: int = 0,
        world_size: int = 1,
    ) -> None:  # fmt: skip
        self.seq_len = seq_len
        self.pairs: list[tuple[str, Row, Row]] = []
        for cursor in range(len(mixture)):
            pair = mixture[cursor]
            chosen, rejected = (_row(pair, reply) for reply in (pair.chosen, pair.rejected))
            if max(len(chosen[0]), len(rejected[0])) <= seq_len + 1:
                self.pairs.append((mixture.source(cursor), chosen, rejected))
        self.dropped = len(mixture) - len(self.pairs)
        super().__init__(len(self.pairs), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.require_a_batch(f"preferences that fit into {seq_len} tokens ({self.dropped} do not)")

    def lengths(self) -> list[int]:
        return [len(ids) for _, *rows in self.pairs for ids, _ in rows]

    def next_batch(self) -> Batch:
        return self.batch(self.next().tolist())

    def batch(self, numbers: list[int]) -> Batch:
        pairs = [self.pairs[number] for number in numbers]
        rows = [chosen for _, chosen, _ in pairs] + [rejected for _, _, rejected in pairs]
        longest = max(len(ids) for ids, _ in rows) - 1
        inputs, targets = collate(rows, min(self.seq_len, round_up(longest, WIDTH_MULTIPLE)))
        return Batch(
            inputs, targets, count_by_dataset((name, len(a[0]) + len(b[0])) for name, a, b in pairs),
            padding=count_padding(inputs), loss_tokens=count_loss_tokens(targets), count=len(pairs),
        )  # fmt: skip


def _row(pair: Preference, reply: str) -> Row:
    ids, loss_mask = chat.render((*pair.prompt, Message("assistant", reply)))
    return torch.tensor(ids), torch.tensor(loss_mask)
