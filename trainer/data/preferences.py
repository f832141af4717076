"""Preference pairs as batches: rows [0:B] are the chosen replies, rows [B:2B] the rejected ones.

Given: Preferences. Hands on: Batches of twice ``batch_size`` rows whose targets are the replies only.
Never: gives the two replies of a pair different prompts, not even by cutting: a pair that is too long is left out.
"""

from typing import Any

import torch
from torch import Tensor

from trainer import chat
from trainer.data.batch import Batch, BatchSampler, batch_width, collate
from trainer.tasks.example import Message, Preference, TaskMixture
from trainer.tokenizer import PAD

Row = tuple[Tensor, Tensor]  # (token ids, loss mask)


class PreferencePairs(BatchSampler):
    def __init__(self, mixture: TaskMixture[Preference], *, seq_len: int, fixed: bool = False, **order: Any) -> None:
        """``fixed``: every batch has the full width, for compilers; ``order``: as for BatchSampler.

        Raises UserError if not one batch can be made.
        """
        self.seq_len, self.fixed = seq_len, fixed
        self.pairs: list[tuple[str, Row, Row]] = []
        for cursor in range(len(mixture)):
            pair = mixture[cursor]
            chosen, rejected = (_row(pair, reply) for reply in (pair.chosen, pair.rejected))
            if max(len(chosen[0]), len(rejected[0])) <= seq_len + 1:
                self.pairs.append((mixture.source(cursor), chosen, rejected))
        self.dropped = len(mixture) - len(self.pairs)
        super().__init__(len(self.pairs), **order)
        self.require_a_batch(f"preferences that fit into {seq_len} tokens ({self.dropped} do not)")

    def lengths(self) -> list[int]:
        """Tokens of each pair."""
        return [len(chosen[0]) + len(rejected[0]) for _, chosen, rejected in self.pairs]

    def next_batch(self) -> Batch:
        pairs = [self.pairs[number] for number in self.next().tolist()]
        rows = [chosen for _, chosen, _ in pairs] + [rejected for _, _, rejected in pairs]
        longest = max(len(ids) for ids, _ in rows) - 1
        inputs, targets = collate(rows, batch_width(longest, self.seq_len, fixed=self.fixed))
        chosen_sizes, rejected_sizes = (inputs != PAD).sum(-1).view(2, -1)
        names, sizes = [name for name, _, _ in pairs], (chosen_sizes + rejected_sizes).tolist()
        return Batch.of(inputs, targets, zip(names, sizes, strict=True), count=len(pairs))


def _row(pair: Preference, reply: str) -> Row:
    """What the assistant said before, in the prompt, does not count: it is the same in both."""
    ids, loss_mask = chat.render((*pair.prompt, Message("assistant", reply)))
    begin = len(chat.render_prompt(pair.prompt))
    return torch.tensor(ids), torch.tensor([*[False] * begin, *loss_mask[begin:]])
