"""What one forward pass eats, and how positions become batches.

Given: token ids. Hands on: Batches. Never: uses the global random numbers.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainer.errors import UserError

IGNORE = -100
"""A target that is not to be predicted."""


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    """Token ids, (batch, time), int64."""
    targets: Tensor
    """The token that follows each input; IGNORE where there is nothing to learn."""
    datasets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where it came from: dataset -> (samples, tokens)."""
    padding: int = 0
    """Positions that only fill up rows."""
    loss_tokens: int | None = None
    """Targets that are learnt from, where these are not all."""
    count: int | None = None
    """Samples, where a sample is not a row."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What else the stage's loss wants, one row per row of inputs."""

    @property
    def samples(self) -> int:
        return self.inputs.size(0) if self.count is None else self.count

    @property
    def tokens(self) -> int:
        """Tokens read, whether or not they are learnt from; padding is none."""
        return self.inputs.numel() - self.padding

    def to(self, device: torch.device) -> "Batch":
        """On a GPU through pinned memory, so that the copy runs beside the computation."""
        if device.type == "cpu":
            return self
        moved = {name: _moved(tensor, device) for name, tensor in self.extra.items()}
        return replace(self, inputs=_moved(self.inputs, device), targets=_moved(self.targets, device), extra=moved)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == device.type:
        return tensor
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


class Order:
    """An endless shuffled order of ``count`` rows in batches, of which this rank takes its share.

    Rank r of w takes rows r, r + w, r + 2w ... of each pass' order: none is read twice in a pass. The whole position
    is two integers, so resuming is exact.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_per_epoch = count // (world_size * batch_size)
        self.epoch = self.position = 0
        self._order = self._shuffle()

    def require_a_batch(self, what: str) -> None:
        """Raises UserError if there are too few rows for one."""
        if not self.batches_per_epoch:
            raise UserError(
                f"{what}: {self.count} samples are too few for one batch of {self.batch_size} on "
                f"{self.world_size} rank(s)",
                "give more data, or lower --batch_size or --seq_len",
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
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.count, generator=generator)[self.rank :: self.world_size]
