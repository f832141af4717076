"""Midtraining: a mixture of conversations, multiple choice and word problems; every token is learnt from.

    python -m trainer midtrain --out runs/a --from_weight pretrain
    python -m trainer midtrain --data ./sets        with ./sets/smoltalk, ./sets/mmlu, ./sets/gsm8k

Given: a Config. Hands on: a Midtraining stage to the loop.
"""

from trainer.chat_stage import ChatStage
from trainer.config import MidtrainConfig
from trainer.run import run_stage


class Midtraining(ChatStage):
    name = "midtrain"
    learn_all = True


def run(config: MidtrainConfig) -> None:
    run_stage(Midtraining, config)
