"""Pretraining: predict the next byte of plain text, from scratch.

    python -m trainer pretrain
    python -m trainer pretrain --data ./fineweb_edu --steps 5000 --n_layer 12 --n_head 12 --n_embd 768 --seq_len 1024
    torchrun --standalone --nproc_per_node=2 -m trainer pretrain

Given: a Config. Hands on: a Pretraining stage to the loop. A folder with several parquet shards is read as a stream.
"""

from typing import Any

import torch
from torch import Tensor

from trainer import data
from trainer.config import Config
from trainer.data import parquet
from trainer.data.quality import DataReport, Quality, statistics
from trainer.data.stream import ParquetStream
from trainer.data.windows import TokenWindows, concatenate
from trainer.distributed import World
from trainer.model import GPT
from trainer.sample_metrics import NgramModel
from trainer.stage import Stage


class Pretraining(Stage):
    name = "pretrain"

    def __init__(self, config: Config, world: World) -> None:
        share = {"batch_size": config.batch_size, "rank": world.rank, "world_size": world.size}
        place = data.locate(config.data, files_max=config.hub_files, without_hub=config.without_hub)
        self.report = report = DataReport(config.bad_rows == "refuse", quality=Quality(config.screen))
        corpus = data.load(place, bytes_max=config.data_bytes, val_fraction=config.val_fraction, report=report)
        self.remarks, self.unreadable, shards = report.lines(), report.count, corpus.shards
        self.is_stream = bool(shards)
        train: TokenWindows | ParquetStream
        if shards:
            train = ParquetStream(shards, name=corpus.name, seq_len=config.seq_len, report=report, **share)
            # Of a stream, data/* describe what comes first.
            parquet.group_texts(shards[0], 0, DataReport(report.refuse), report.quality)
        else:
            tokens = concatenate(corpus.train)
            train = TokenWindows(tokens, name=corpus.name, seq_len=config.seq_len, seed=config.seed, **share)
        val_tokens = concatenate(corpus.val)
        self.val_loader = val = TokenWindows(
            val_tokens, name=f"{corpus.name} (validation)", seq_len=config.seq_len, shrink=True, **share
        )
        self.ngram = NgramModel(corpus.train or corpus.val) if world.is_main else None
        self.train_loader, self.batches_per_epoch = train, train.batches_per_epoch
        self.dataset_sizes = {corpus.name: train.count}
        self.data_facts = {
            "dataset/name": corpus.name,
            **statistics([config.seq_len], train.count, val.count),
            **report.quality.metrics(),
            "data/unreadable": self.unreadable,
            **({"dataset/train_shards": len(shards)} if shards else {}),
        }

    def validate(self, model: GPT, iters: int, world: World) -> dict[str, float]:
        """Of a stream, also the rows that could not be read so far: training meets them only now."""
        numbers = super().validate(model, iters, world)
        if self.is_stream:
            self.remarks = self.report.lines()
            [met] = world.sum_over_ranks(self.report.count - self.unreadable)
            numbers["data/unreadable"] = self.unreadable + met
        return numbers

    def sample_perplexity(self, texts: list[str]) -> float | None:
        return self.ngram.perplexity(texts) if self.ngram else None

    def state(self) -> dict[str, Any]:
        return {} if self.is_stream else self.train_loader.state()

    def load_state(self, state: dict[str, Any]) -> None:
        if not self.is_stream:
            self.train_loader.load_state(state)

    def rank_state(self) -> dict[str, Tensor]:
        """Each rank is somewhere else in a stream."""
        if not self.is_stream:
            return {}
        return {name: torch.tensor(value) for name, value in self.train_loader.state().items()}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        if self.is_stream:
            self.train_loader.load_state({name: int(value) for name, value in state.items()})
