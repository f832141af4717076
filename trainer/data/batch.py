"""The input of one forward pass, rows of tokens padded to one width, and the sampler that all loaders share.

Given: token ids. Hands on: Batches. Never: uses the global random numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.tokenizer import PAD

IGNORE = -100
"""A target that does not count: padding, and prompts where only replies are trained on. (F.cross_entropy's own.)"""


@dataclass(frozen=True)
class Batch:
    inputs: Tensor  # Token ids, (batch, time), int64.
    targets: Tensor  # The token that follows each input, or IGNORE.
    datasets: dict[str, tuple[int, int]] = field(default_factory=dict)  # dataset -> (samples, tokens) taken from it.
    padding: int = 0  # Positions that hold no token.
    loss_tokens: int | None = None  # Targets that count; None: all.
    count: int | None = None  # Samples; None: one per row.
    extra: dict[str, Tensor] = field(default_factory=dict)  # Further inputs of the loss, a row per row of inputs.

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, samples: Iterable[tuple[str, int]], **more: Any) -> Self:
        """A padded batch, with all that can be counted in it. ``samples``: (dataset, tokens) of each sample."""
        datasets: dict[str, tuple[int, int]] = {}
        for name, tokens in samples:
            count, total = datasets.get(name, (0, 0))
            datasets[name] = (count + 1, total + tokens)
        padding, loss_tokens = int((inputs == PAD).sum()), int((targets != IGNORE).sum())
        return cls(inputs, targets, datasets, padding=padding, loss_tokens=loss_tokens, **more)

    @property
    def samples(self) -> int:
        return self.inputs.size(0) if self.count is None else self.count

    @property
    def tokens(self) -> int:
        """Without padding, whether or not they count in the loss."""
        return self.inputs.numel() - self.padding

    def to(self, device: torch.device) -> "Batch":
        """On a GPU through pinned memory, so that the copy runs beside the computation."""
        if device.type == "cpu":
            return self
        moved = {name: _moved(tensor, device) for name, tensor in self.extra.items()}
        return replace(self, inputs=_moved(self.inputs, device), targets=_moved(self.targets, device), extra=moved)


class Loader(Protocol):
    """An endless source of batches, which can go on where another one stood."""

    def next_batch(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == device.type:
        return tensor
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def collate(rows: Sequence[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor]:
    """(inputs, targets) of shape (rows, width) from rows of (token ids, loss mask), each at most width + 1 long.

    Padded on the right, where causal attention never looks.
    """
    tokens = torch.full((len(rows), width + 1), PAD)
    targets = torch.full((len(rows), width + 1), IGNORE)
    for number, (ids, loss_mask) in enumerate(rows):
        tokens[number, : len(ids)] = ids
        targets[number, : len(ids)] = torch.where(loss_mask, ids, IGNORE)
    return tokens[:, :-1].contiguous(), targets[:, 1:].contiguous()


def batch_width(longest: int, seq_len: int, *, fixed: bool, multiple: int = 16) -> int:
    """The width for rows of at most ``longest`` tokens, rounded up: fewer different shapes suit allocators.

    ``fixed``: always the full context, for compilers.
    """
    return seq_len if fixed else min(seq_len, -(-longest // multiple) * multiple)


class BatchSampler:
    """Row numbers in batches: an endless, shuffled order of ``count`` rows, of which this rank takes its share.

    Rank r of w takes rows r, r + w, r + 2w ... of each epoch's order, so none is read twice in an epoch. The whole
    position is two integers, so resuming is exact.
    """

    def __init__(
        self, count: int, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1, shrink: bool = False
    ) -> None:
        """``shrink``: take smaller batches if there are too few rows for one, as validation may."""
        if shrink:
            batch_size = max(1, min(batch_size, count // world_size))
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_per_epoch = count // (world_size * batch_size)
        self.epoch = self.position = 0
        self._order = self._shuffle()

    def require_a_batch(self, what: str, remedy: str = "raise --seq_len if they are too long for it") -> None:
        """Raises UserError if there are too few rows for one."""
        if not self.batches_per_epoch:
            raise UserError(
                f"{what}: {self.count} samples are too few for one batch of {self.batch_size} on "
                f"{self.world_size} rank(s)",
                f"give more data, lower --batch_size, or {remedy}",
            )

    def next(self) -> Tensor:
        """The numbers of the next ``batch_size`` rows."""
        if self.position == self.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffle()
        first = self.position * self.batch_size
        self.position += 1
        return self._order[first : first + self.batch_size]

    def rewind(self) -> None:
        """Back to the first batch of the first epoch."""
        self.load_state({"epoch": 0, "position": 0})

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state(self, state: dict[str, int]) -> None:
        reshuffle = state["epoch"] != self.epoch
        self.epoch, self.position = state["epoch"], state["position"]
        if reshuffle:
            self._order = self._shuffle()

    def _shuffle(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.count, generator=generator)[self.rank :: self.world_size]
