"""Documents in a row, cut into windows, dealt out in a shuffled order: the loader of the stages that read plain text.

Given: documents, and this process' rank among how many. Hands on: Batches, for ever; each pass in a new order.
Never: uses the global random numbers. Its whole position is two integers, so resuming is exact.

Rank r of w takes windows r, r + w, r + 2w ... of the shuffled order: no window is read twice in a pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.tokenizer import BOS


@dataclass(frozen=True)
class Batch:
    """What one forward pass eats."""

    inputs: Tensor
    """Token ids, (batch, time), int64."""
    targets: Tensor
    """The token that follows each input; -100 where there is nothing to learn."""
    datasets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where it came from: dataset -> (samples, tokens)."""

    @property
    def samples(self) -> int:
        return self.inputs.size(0)

    @property
    def tokens(self) -> int:
        """Positions computed, whether or not they are learnt from."""
        return self.inputs.numel()

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        inputs, targets = (t.pin_memory().to(device, non_blocking=True) for t in (self.inputs, self.targets))
        return Batch(inputs, targets, self.datasets)


def concatenate(documents: Sequence[bytes]) -> Tensor:
    """All documents as one row of token ids, each begun by BOS; int16, because 320 tokens fit."""
    parts = []
    for document in documents:
        parts.append(torch.tensor([BOS], dtype=torch.int16))
        parts.append(torch.frombuffer(bytearray(document), dtype=torch.uint8).to(torch.int16))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int16)


class Windows:
    """An endless source of batches of ``batch_size`` windows of ``seq_len`` tokens."""

    def __init__(
        self,
        tokens: Tensor,
        *,
        name: str,
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tokens, self.name = tokens, name
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.count = max(0, (len(tokens) - 1) // seq_len)
        """Windows in one pass, over all ranks."""
        self.batches_per_epoch = self.count // (world_size * batch_size)
        if not self.batches_per_epoch:
            raise UserError(
                f"{name} holds {self.count} windows of {seq_len} tokens, too few for one batch of {batch_size} "
                f"on {world_size} rank(s)",
                "give more text, or lower --batch_size or --seq_len",
            )
        self.epoch = self.position = 0
        self._order = self._shuffle()

    def next(self) -> Batch:
        if self.position == self.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffle()
        first = self.position * self.batch_size
        self.position += 1
        return self.batch(self._order[first : first + self.batch_size])

    def batch(self, windows: Tensor) -> Batch:
        """The windows of these numbers."""
        places = windows[:, None] * self.seq_len + torch.arange(self.seq_len + 1)
        rows = self.tokens[places].to(torch.int64)
        count = len(windows)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), {self.name: (count, count * self.seq_len)})

    def rewind(self) -> None:
        """Back to the first batch of the first pass."""
        self.load_state({"epoch": 0, "position": 0})

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state(self, state: dict[str, int]) -> None:
        reshuffle = state["epoch"] != self.epoch
        self.epoch, self.position = state["epoch"], state["position"]
        if reshuffle:
            self._order = self._shuffle()

    def _shuffle(self) -> Tensor:
        """This rank's share of this pass' order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.count, generator=generator)[self.rank :: self.world_size]
