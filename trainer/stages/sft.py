"""Supervised fine-tuning: conversations again, but only the assistant's words count in the loss.

    python -m trainer sft --out runs/a --from_weight midtrain --epochs 1 --batch_size 16 --use_wandb
    python -m trainer sft --data_config sft.toml --from_weight midtrain --use_prepared

Given: a Config. Hands on: a FineTuning stage to the loop.
"""

from trainer.chat_stage import ChatStage


class FineTuning(ChatStage):
    name = "sft"
