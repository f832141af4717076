"""Documents concatenated, cut into windows and shuffled: the loader of pretraining.

Given: documents, and this process' rank. Hands on: Batches, endlessly; each epoch in a new order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.data.batch import Batch, BatchSampler
from trainer.tokenizer import BOS


def concatenate(documents: Sequence[bytes]) -> Tensor:
    """All documents as one row of token ids, each preceded by BOS; int16, because 320 tokens fit."""
    parts = []
    for document in documents:
        parts.append(torch.tensor([BOS], dtype=torch.int16))
        parts.append(torch.frombuffer(bytearray(document), dtype=torch.uint8).to(torch.int16))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int16)


class TokenWindows(BatchSampler):
    """An endless source of batches of ``batch_size`` windows of ``seq_len`` tokens."""

    def __init__(self, tokens: Tensor, *, name: str, seq_len: int, **order: Any) -> None:
        """``order``: as for BatchSampler. Raises UserError if not one batch can be made."""
        self.tokens, self.name, self.seq_len = tokens, name, seq_len
        count = max(0, (len(tokens) - 1) // seq_len)
        super().__init__(count, **order)
        self.require_a_batch(f"{name} (windows of {seq_len} tokens)", "lower --seq_len")

    def next_batch(self) -> Batch:
        windows = self.next()
        places = windows[:, None] * self.seq_len + torch.arange(self.seq_len + 1)
        rows = self.tokens[places].to(torch.int64)
        count = len(windows)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), {self.name: (count, count * self.seq_len)})
