"""Midtraining: a mixture of conversations, multiple choice and word problems; every token counts in the loss.

    python -m trainer midtrain --out runs/a --from_weight pretrain
    python -m trainer midtrain --data ./sets        with ./sets/smoltalk, ./sets/mmlu, ./sets/gsm8k

Given: a Config. Hands on: a Midtraining stage to the loop.
"""

from trainer.chat_stage import ChatStage


class Midtraining(ChatStage):
    name = "midtrain"
    train_on_prompts = True
