"""Pretraining: predict the next byte of plain text, from nothing.

    python -m trainer pretrain
    python -m trainer pretrain --data ./fineweb_edu --steps 5000 --n_layer 12 --n_head 12 --n_embd 768 --seq_len 1024
    torchrun --standalone --nproc_per_node=2 -m trainer pretrain

Given: a Config. Hands on: a Pretraining stage to the loop.
"""

from trainer import data
from trainer.config import Config
from trainer.data.windows import Windows, concatenate
from trainer.distributed import World
from trainer.run import run_stage
from trainer.stage import Stage


class Pretraining(Stage):
    name = "pretrain"

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


def run(config: Config) -> None:
    run_stage(Pretraining, config)
