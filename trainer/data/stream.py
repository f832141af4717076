"""Many parquet shards, read as a stream, row group by row group; no document is read by two ranks.

Given: shards in FineWeb-EDU's format, and this process' rank. Hands on: Batches of windows, endlessly.
Never: holds more than one row group and one batch in memory.

The position is where the next window begins (pass, row group, document, token), so resuming is exact. It differs from
rank to rank.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.data import parquet
from trainer.data.batch import Batch
from trainer.data.quality import Quality
from trainer.data.report import DataReport
from trainer.data.windows import concatenate
from trainer.errors import UserError

GROUPS_PER_RANK_MIN = 8
"""With fewer row groups, some ranks would have much more to read than others: then every rank takes every
``world_size``-th row."""


@dataclass
class Position:
    epoch: int = 0
    group: int = 0  # Number of the row group among those that this rank reads.
    document: int = 0  # Number of the document among those that it reads of that row group.
    offset: int = 0  # Tokens of the document already used.


class ParquetStream:
    def __init__(
        self, shards: Sequence[Path], *, name: str, seq_len: int, batch_size: int, rank: int = 0, world_size: int = 1,
        report: DataReport | None = None,
    ) -> None:  # fmt: skip
        """``report``: counts the rows that cannot be read, once; its screen leaves out text that quality.py blocks.

        Raises UserError: a shard that cannot be read, or no rows at all.
        """
        self.name, self.seq_len, self.batch_size, self.report = name, seq_len, batch_size, report or DataReport()
        self.groups = _share_of(rank, world_size, shards)
        if not self.groups:
            raise UserError(f"the shards of {name} have no rows", "give --data shards that hold text")
        size = sum(map(parquet.text_bytes, shards))
        self.count = max(1, size // seq_len)
        """TokenWindows in one pass, over all ranks; as the shards' footers have it, so not to the last one."""
        self.batches_per_epoch = max(1, self.count // (batch_size * world_size))
        self._begin_at(Position())

    def next_batch(self) -> Batch:
        wanted = self.batch_size * self.seq_len
        while self._held < wanted + 1:
            self._read_document()
        tokens = torch.cat(tuple(self._parts))[: wanted + 1].long()
        self._drop(wanted)
        inputs, targets = tokens[:-1].view(self.batch_size, -1), tokens[1:].view(self.batch_size, -1)
        return Batch(inputs.contiguous(), targets.contiguous(), {self.name: (self.batch_size, wanted)})

    def state(self) -> dict[str, int]:
        """Where the next window begins."""
        return vars(self._starts[0]).copy() if self._starts else vars(self._next).copy()

    def load_state(self, state: dict[str, int]) -> None:
        self._begin_at(Position(**state))

    def _begin_at(self, position: Position) -> None:
        self._parts: deque[Tensor] = deque()
        self._starts: deque[Position] = deque()
        self._held = 0
        self._next, self._skip = Position(position.epoch, position.group, position.document), position.offset
        self._texts: list[bytes] | None = None
        self._began_in, self._found = position.epoch, False  # Has this pass had any text so far?

    def _read_document(self) -> None:
        """Take up one more document, or go on to the next row group."""
        at = self._next
        if self._texts is None:
            shard, group, rows = self.groups[at.group]
            report = self.report if at.epoch == self._began_in else DataReport(self.report.refuse)
            self._texts = parquet.group_texts(shard, group, report, Quality(self.report.quality.screen), rows)
        if at.document < len(self._texts):
            self._found = True
            tokens = concatenate([self._texts[at.document]])[self._skip :]
            self._parts.append(tokens)
            self._starts.append(Position(at.epoch, at.group, at.document, self._skip))
            self._held += len(tokens)
            self._next = Position(at.epoch, at.group, at.document + 1)
        else:
            last = at.group + 1 == len(self.groups)
            if last and at.epoch > self._began_in and not self._found:
                raise UserError(f"{self.name} has no text that may be trained on", "give other shards, or --no-screen")
            self._found = self._found and not last
            self._next = Position(at.epoch + 1) if last else Position(at.epoch, at.group + 1)
            self._texts = None
        self._skip = 0

    def _drop(self, count: int) -> None:
        """The first ``count`` tokens are used."""
        self._held -= count
        while count:
            first, start = self._parts[0], self._starts[0]
            if len(first) > count:
                self._parts[0] = first[count:]
                self._starts[0] = Position(start.epoch, start.group, start.document, start.offset + count)
                return
            count -= len(first)
            self._parts.popleft()
            self._starts.popleft()


def _share_of(rank: int, world_size: int, shards: Sequence[Path]) -> list[tuple[Path, int, slice]]:
    """What a rank reads: (shard, number of a row group in it, rows of that)."""
    of_shards = [(shard, number, rows) for shard in shards for number, rows in enumerate(parquet.row_groups(shard))]
    groups = [(shard, number, rows) for shard, number, rows in of_shards if rows]
    if len(groups) >= GROUPS_PER_RANK_MIN * world_size:
        return [(shard, number, slice(None)) for shard, number, _ in groups[rank::world_size]]
    firsts = itertools.accumulate((rows for *_, rows in groups), initial=0)
    return [
        (shard, number, slice((rank - first) % world_size, None, world_size))
        for (shard, number, _), first in zip(groups, firsts, strict=False)  # There is one sum more than groups.
    ]
