"""Conversations as rows of tokens with a mask of what to learn: the loader of midtraining and SFT.

Given: a TaskMixture, or what an earlier run prepared from it. Hands on: Batches whose padding and prompts have no
target; with ``pack``, rows that hold as many whole conversations as fit.
Never: learns from a prompt, unless told to learn from everything. Its whole position is two integers.
"""

import contextlib
import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import chat
from trainer.data.batch import IGNORE, Batch, Order
from trainer.errors import UserError
from trainer.tasks.example import Example, TaskMixture
from trainer.tokenizer import PAD

ROUND = 16
"""Rows are padded to a multiple of this: fewer shapes, which allocators and compilers like."""


@dataclass(frozen=True)
class Prepared:
    """Conversations as tokens, one after another in the order of the mixture."""

    tokens: Tensor
    """int16"""
    learn: Tensor
    """bool, one per token"""
    starts: Tensor
    """int64, one more than there are conversations"""
    task: Tensor
    """int64, the number of the data set of each"""
    names: list[str]
    truncated: int = 0
    """Conversations cut to the context."""
    dropped: int = 0
    """Those with nothing left to learn from after the cut."""

    def __len__(self) -> int:
        return len(self.task)

    def lengths(self) -> Tensor:
        return self.starts[1:] - self.starts[:-1]


def prepare(mixture: TaskMixture[Example], seq_len: int, *, learn_all: bool = False) -> Prepared:
    """Render every conversation, cut to ``seq_len`` + 1 tokens: a row has one token more than the context."""
    tokens, learn = array("h"), bytearray()  # Lists would take eight times the memory of the tensors.
    starts, task = [0], []
    truncated = dropped = 0
    for cursor in range(len(mixture)):
        ids, mask = chat.render(mixture[cursor].messages)
        truncated += len(ids) > seq_len + 1
        ids, mask = ids[: seq_len + 1], mask[: seq_len + 1]
        if learn_all:
            mask = [False, *[True] * (len(ids) - 1)]
        if not any(mask):
            dropped += 1
            continue
        tokens.extend(ids)
        learn.extend(mask)
        starts.append(len(tokens))
        task.append(mixture.index_map[cursor][0])
    as_tensors = (_tensor(tokens, torch.int16), _tensor(learn, torch.bool))
    return Prepared(*as_tensors, torch.tensor(starts), torch.tensor(task), mixture.names, truncated, dropped)


def _tensor(numbers: "array[int] | bytearray", dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(numbers, dtype=dtype) if len(numbers) else torch.empty(0, dtype=dtype)


def cached(make: Any, key: str, folder: Path) -> tuple[Prepared, bool]:
    """What ``make()`` gives, from the file of an earlier run if there is a whole one; True if it was."""
    from trainer import checkpoint

    path = folder / f"prepared_{hashlib.blake2s(key.encode(), digest_size=6).hexdigest()}.pt"
    with contextlib.suppress(UserError, KeyError):  # Of another version, or damaged: it is only a copy.
        state = checkpoint.load_file(path)
        return Prepared(**{name: state[name] for name in Prepared.__dataclass_fields__}), True
    made: Prepared = make()
    try:
        checkpoint.save(path, vars(made))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "give --prepared a folder of your own") from error
    return made, False


def pack(lengths: list[int], room: int) -> list[list[int]]:
    """Conversations in order, a new row when the next one does not fit: rows of numbers, none split or left out."""
    rows: list[list[int]] = []
    left = 0
    for number, length in enumerate(lengths):
        if length > left:
            rows.append([])
            left = room
        rows[-1].append(number)
        left -= length
    return rows


class Chats(Order):
    """An endless source of batches of ``batch_size`` rows."""

    def __init__(
        self, prepared: Prepared, *, name: str, seq_len: int, batch_size: int, packed: bool = False,
        fixed: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        """``fixed``: every batch has the full width, for compilers. Raises UserError if not one batch can be made."""
        self.prepared, self.seq_len, self.fixed = prepared, seq_len, fixed
        lengths = prepared.lengths().tolist()
        self.rows = pack(lengths, seq_len + 1) if packed else [[number] for number in range(len(lengths))]
        super().__init__(len(self.rows), batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.require_a_batch(f"{name} (conversations)")

    def next_batch(self) -> Batch:
        return self.batch([self.rows[number] for number in self.next().tolist()])

    def batch(self, rows: list[list[int]]) -> Batch:
        """Rows of conversations by number; each padded on the right, where causal attention never looks."""
        data, used = self.prepared, [number for row in rows for number in row]
        lengths = data.lengths()
        sizes = [int(lengths[row].sum()) for row in rows]
        width = self.seq_len if self.fixed else min(self.seq_len, -(-(max(sizes) - 1) // ROUND) * ROUND)
        tokens = torch.full((len(rows), width + 1), PAD)
        targets = torch.full((len(rows), width + 1), IGNORE)
        for place, row in enumerate(rows):
            at = 0
            for number in row:
                span = slice(int(data.starts[number]), int(data.starts[number + 1]))
                end = at + span.stop - span.start
                ids = data.tokens[span].long()
                tokens[place, at:end] = ids
                targets[place, at:end] = torch.where(data.learn[span], ids, IGNORE)
                at = end
        inputs, targets = tokens[:, :-1].contiguous(), targets[:, 1:].contiguous()
        return Batch(
            inputs, targets, self._sources(used), padding=int((inputs == PAD).sum()),
            loss_tokens=int((targets != IGNORE).sum()), count=len(used),
        )  # fmt: skip

    def _sources(self, used: list[int]) -> dict[str, tuple[int, int]]:
        samples: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for number in used:
            name = self.prepared.names[int(self.prepared.task[number])]
            samples[name] += 1
            tokens[name] += int(self.prepared.starts[number + 1] - self.prepared.starts[number])
        return {name: (samples[name], tokens[name]) for name in samples}
