"""Pretraining: predict the next byte of plain text, from nothing.

    python -m trainer pretrain
    python -m trainer pretrain --data ./fineweb_edu --steps 5000 --n_layer 12 --n_head 12 --n_embd 768 --seq_len 1024
    torchrun --standalone --nproc_per_node=2 -m trainer pretrain

Given: a Config. Hands on: a Pretraining stage to the loop. A folder with several parquet shards is read as a stream.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import data
from trainer.config import Config
from trainer.data import parquet
from trainer.data.corpus import Corpus
from trainer.data.stream import ParquetStream
from trainer.data.windows import Windows, concatenate
from trainer.distributed import World
from trainer.ngram import Reference
from trainer.run import run_stage
from trainer.stage import Stage


class Pretraining(Stage):
    name = "pretrain"

    def __init__(self, config: Config, world: World) -> None:
        share = {"batch_size": config.batch_size, "rank": world.rank, "world_size": world.size}
        shards = parquet.shards_of(config.data)
        self.is_stream = bool(shards)
        if not shards:
            corpus = data.load(config.data, bytes_max=config.data_bytes, val_fraction=config.val_fraction)
            tokens = concatenate(corpus.train)
            train: Windows | ParquetStream = Windows(
                tokens, name=corpus.name, seq_len=config.seq_len, seed=config.seed, **share
            )
        else:
            *shards, last = shards
            corpus = _held_back(last, config)
            train = ParquetStream(shards, name=corpus.name, seq_len=config.seq_len, **share)
        val_tokens = concatenate(corpus.val)
        self.val = val = Windows(val_tokens, name=f"{corpus.name} (validation)", seq_len=config.seq_len, **share)
        self.reference = Reference(corpus.train or corpus.val) if world.is_main else None
        self.train, self.batches_per_epoch = train, train.batches_per_epoch
        self.dataset_sizes = {corpus.name: train.count}
        self.data_facts = _facts(corpus, train.count, val.count, config.seq_len)
        if shards:
            self.data_facts |= {"dataset/train_shards": len(shards), **parquet.quality(shards[0])}

    def surprise(self, texts: list[str]) -> float | None:
        return self.reference.perplexity(texts) if self.reference else None

    def state(self) -> dict[str, Any]:
        return {} if self.is_stream else self.train.state()

    def load_state(self, state: dict[str, Any]) -> None:
        if not self.is_stream:
            self.train.load_state(state)

    def rank_state(self) -> dict[str, Tensor]:
        """Each rank is somewhere else in a stream."""
        if not self.is_stream:
            return {}
        return {name: torch.tensor(value) for name, value in self.train.state().items()}

    def load_rank_state(self, state: dict[str, Tensor]) -> None:
        if self.is_stream:
            self.train.load_state({name: int(value) for name, value in state.items()})


def _held_back(last: Path, config: Config) -> Corpus:
    """The last shard validates, and is the reference for samples; the others are not read yet."""
    return Corpus(last.resolve().parent.name, [], parquet.documents(last, int(config.data_bytes * config.val_fraction)))


def _facts(corpus: Corpus, train: int, val: int, seq_len: int) -> dict[str, Any]:
    """dataset/* in windows, data/* in documents."""
    documents = corpus.train + corpus.val
    readable = 100 * len(documents) / max(1, len(documents) + corpus.skipped)
    return {
        "dataset/name": corpus.name,
        "dataset/train_size": train,
        "dataset/eval_size": val,
        "dataset/total_size": train + val,
        "dataset/train_eval_ratio": train / val,
        "dataset/avg_tokens_per_sample": seq_len,
        "dataset/min_tokens": seq_len,
        "dataset/max_tokens": seq_len,
        "dataset/train_documents": len(corpus.train),
        "dataset/eval_documents": len(corpus.val),
        "dataset/skipped_documents": corpus.skipped,
        "data/total_samples": len(documents),
        "data/avg_code_length": sum(map(len, documents)) / max(1, len(documents)),
        "data/pass_rate": readable,
    }


def run(config: Config) -> None:
    run_stage(Pretraining, config)
