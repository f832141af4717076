"""Conversations as rows of tokens with a loss mask: the loader of midtraining and SFT.

Given: a TaskMixture, or what an earlier run prepared from it. Hands on: Batches whose padding and prompts have no
target (with ``train_on_prompts``: only the padding); if packed, rows that hold as many whole conversations as fit.
"""

import contextlib
import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import chat, checkpoint
from trainer.data.batch import Batch, BatchSampler, batch_width, collate
from trainer.errors import UserError
from trainer.tasks.example import Example, TaskMixture


@dataclass(frozen=True)
class Prepared:
    """Conversations as tokens, one after another in the order of the mixture."""

    tokens: Tensor  # int16
    loss_mask: Tensor  # bool, one per token: does it count as a target?
    starts: Tensor  # int64, one more than there are conversations
    task: Tensor  # int64, the number of each one's dataset in names
    names: list[str]
    truncated: int = 0  # Conversations cut to the context.
    dropped: int = 0  # Conversations left out because no target remained after the cut.

    def __len__(self) -> int:
        return len(self.task)

    def lengths(self) -> Tensor:
        return self.starts[1:] - self.starts[:-1]


def prepare(mixture: TaskMixture[Example], seq_len: int, *, train_on_prompts: bool = False) -> Prepared:
    """Render every conversation, cut to ``seq_len`` + 1 tokens: a row has one token more than the context."""
    tokens, loss_mask = array("h"), bytearray()  # Lists would take eight times the memory of the tensors.
    starts, task = [0], []
    truncated = dropped = 0
    for cursor in range(len(mixture)):
        ids, mask = chat.render(mixture[cursor].messages)
        truncated += len(ids) > seq_len + 1
        ids, mask = ids[: seq_len + 1], mask[: seq_len + 1]
        if train_on_prompts:
            mask = [False, *[True] * (len(ids) - 1)]
        if not any(mask):
            dropped += 1
            continue
        tokens.extend(ids)
        loss_mask.extend(mask)
        starts.append(len(tokens))
        task.append(mixture.index_map[cursor][0])
    as_tensors = (_tensor(tokens, torch.int16), _tensor(loss_mask, torch.bool))
    return Prepared(*as_tensors, torch.tensor(starts), torch.tensor(task), mixture.names, truncated, dropped)


def _tensor(numbers: "array[int] | bytearray", dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(numbers, dtype=dtype) if len(numbers) else torch.empty(0, dtype=dtype)


def cached(make: Any, key: str, folder: Path) -> tuple[Prepared, bool]:
    """(what ``make()`` returns, was it read from the file of an earlier run?)"""
    path = folder / f"prepared_{hashlib.blake2s(key.encode(), digest_size=6).hexdigest()}.pt"
    with contextlib.suppress(UserError, KeyError):  # Of another version, or damaged: it is only a cache.
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


class Conversations(BatchSampler):
    """An endless source of batches of ``batch_size`` rows."""

    def __init__(
        self, prepared: Prepared, *, name: str, seq_len: int, packed: bool = False, fixed: bool = False, **order: Any
    ) -> None:
        """``fixed``: every batch has the full width, for compilers; ``order``: as for BatchSampler.

        Raises UserError if not one batch can be made.
        """
        self.prepared, self.seq_len, self.fixed = prepared, seq_len, fixed
        lengths = prepared.lengths().tolist()
        self.rows = pack(lengths, seq_len + 1) if packed else [[number] for number in range(len(lengths))]
        super().__init__(len(self.rows), **order)
        self.require_a_batch(f"{name} (conversations)")

    def next_batch(self) -> Batch:
        rows = [self.rows[number] for number in self.next().tolist()]
        data, used = self.prepared, [number for row in rows for number in row]
        parts = [(self._join(data.tokens, row).long(), self._join(data.loss_mask, row)) for row in rows]
        longest = max(len(ids) for ids, _ in parts) - 1
        width = batch_width(longest, self.seq_len, fixed=self.fixed)
        inputs, targets = collate(parts, width)
        lengths, sizes = data.lengths(), list[int]()
        for row in rows:
            of_row = lengths[row].tolist()
            of_row[-1] -= max(0, sum(of_row) - width)  # The last token of a full row is a target only.
            sizes += of_row
        names = [data.names[task] for task in data.task[used].tolist()]
        return Batch.of(inputs, targets, zip(names, sizes, strict=True), count=len(used))

    def _join(self, values: Tensor, row: list[int]) -> Tensor:
        starts = self.prepared.starts
        return torch.cat([values[starts[number] : starts[number + 1]] for number in row])
