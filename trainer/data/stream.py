"""Many parquet shards, read as a stream, row group by row group; no document is read by two ranks.

Given: shards in FineWeb-EDU's format, and this process' rank. Hands on: Batches of windows, endlessly.
Never: holds more than one row group and one batch in memory.

The position is where the next window begins (pass, row group, document, token), so resuming is exact. It differs from
rank to rank.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.data import parquet
from trainer.data.batch import Batch
from trainer.data.quality import DataReport, Quality
from trainer.data.windows import concatenate
from trainer.errors import UserError

GROUPS_PER_RANK_MIN = 8
"""With fewer row groups, some ranks would have much more to read than others: then every rank takes every
``world_size``-th row."""


class Position(NamedTuple):
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
        """Windows in one pass over all ranks, estimated from the shards' footers."""
        self.batches_per_epoch = max(1, self.count // (batch_size * world_size))
        self._begin_at(Position())

    def next_batch(self) -> Batch:
        wanted = self.batch_size * self.seq_len
        held = sum(len(tokens) for _, tokens in self._parts)
        while held < wanted + 1:
            self._parts.append(next(self._documents))
            held += len(self._parts[-1][1])
        tokens = torch.cat([tokens for _, tokens in self._parts])[: wanted + 1].long()
        self._drop(wanted)
        inputs, targets = tokens[:-1].view(self.batch_size, -1), tokens[1:].view(self.batch_size, -1)
        return Batch(inputs.contiguous(), targets.contiguous(), {self.name: (self.batch_size, wanted)})

    def state(self) -> dict[str, int]:
        """Where the next window begins."""
        return (self._parts[0][0] if self._parts else self._start)._asdict()

    def load_state(self, state: dict[str, int]) -> None:
        self._begin_at(Position(**state))

    def _begin_at(self, start: Position) -> None:
        self._start, self._documents = start, self._documents_from(start)
        self._parts: deque[tuple[Position, Tensor]] = deque()

    def _documents_from(self, start: Position) -> Iterator[tuple[Position, Tensor]]:
        """(position, tokens) of every document, endlessly; the first one without its tokens before ``start``."""
        first = start._replace(offset=0)
        for epoch in itertools.count(start.epoch):
            report = self.report if epoch == start.epoch else DataReport(self.report.refuse)
            has_text = epoch == start.epoch  # Of a pass that begins midway, the text may have come before.
            for group in range(start.group if epoch == start.epoch else 0, len(self.groups)):
                shard, number, rows = self.groups[group]
                texts = parquet.group_texts(shard, number, report, Quality(self.report.quality.screen), rows)
                for document, text in enumerate(texts):
                    if (at := Position(epoch, group, document)) >= first:
                        has_text, offset = True, start.offset if at == first else 0
                        yield at._replace(offset=offset), concatenate([text])[offset:]
            if not has_text:
                raise UserError(f"{self.name} has no text that may be trained on", "give other shards, or --no-screen")

    def _drop(self, count: int) -> None:
        """The first ``count`` tokens are used."""
        while count:
            at, tokens = self._parts.popleft()
            if len(tokens) > count:
                self._parts.appendleft((at._replace(offset=at.offset + count), tokens[count:]))
            count -= min(count, len(tokens))


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
