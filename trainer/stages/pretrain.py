"""Pretraining: predict the next byte of plain text, from nothing.

    python -m trainer pretrain
    python -m trainer pretrain --data ./fineweb_edu --steps 5000 --n_layer 12 --n_head 12 --n_embd 768 --seq_len 1024
    torchrun --standalone --nproc_per_node=2 -m trainer pretrain

Given: a Config. Hands on: a Pretraining stage to the loop.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer import data
from trainer.config import GENERATION_PROMPTS, Config
from trainer.data.windows import Batch, Windows, concatenate
from trainer.distributed import World, world
from trainer.evaluate import IGNORE
from trainer.loop import train
from trainer.model import GPT, ModelConfig
from trainer.tokenizer import VOCAB_SIZE


class Pretraining:
    name = "pretrain"
    prompts: tuple[str, ...] = GENERATION_PROMPTS

    def __init__(self, config: Config, world: World) -> None:
        corpus = data.load(config.data, bytes_max=config.data_bytes, val_fraction=config.val_fraction)
        share = {"batch_size": config.batch_size, "rank": world.rank, "world_size": world.size}
        train_tokens, val_tokens = concatenate(corpus.train), concatenate(corpus.val)
        self.train = Windows(train_tokens, name=corpus.name, seq_len=config.seq_len, seed=config.seed, **share)
        self.val = Windows(val_tokens, name=f"{corpus.name} (validation)", seq_len=config.seq_len, **share)
        self.batches_per_epoch = self.train.batches_per_epoch
        self.dataset_sizes = {corpus.name: self.train.count}
        self.data_facts = {
            "dataset/name": corpus.name,
            "dataset/train_size": self.train.count,
            "dataset/eval_size": self.val.count,
            "dataset/total_size": self.train.count + self.val.count,
            "dataset/train_eval_ratio": self.train.count / self.val.count,
            "dataset/avg_tokens_per_sample": config.seq_len,
            "dataset/min_tokens": config.seq_len,
            "dataset/max_tokens": config.seq_len,
            "dataset/train_documents": len(corpus.train),
            "dataset/eval_documents": len(corpus.val),
            "dataset/skipped_documents": corpus.skipped,
        }

    def build_model(self, config: Config) -> GPT:
        return GPT(
            ModelConfig(
                vocab_size=VOCAB_SIZE,
                n_layer=config.n_layer,
                n_head=config.n_head,
                n_embd=config.n_embd,
                seq_len=config.seq_len,
                dropout=config.dropout,
                tie_weights=config.tie_weights,
            )
        )

    def next_batch(self) -> Batch:
        return self.train.next()

    def begin_validation(self) -> None:
        """Every validation reads the same batches."""
        self.val.rewind()

    def next_validation_batch(self) -> Batch:
        return self.val.next()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Mean cross-entropy in nats per token, and nothing else to report."""
        logits = model(batch.inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), ignore_index=IGNORE), {}

    def state(self) -> dict[str, int]:
        return self.train.state()

    def load_state(self, state: dict[str, int]) -> None:
        self.train.load_state(state)


def run(config: Config) -> None:
    with world(config.device, config.threads) as here:
        train(Pretraining(config, here), config, here)
