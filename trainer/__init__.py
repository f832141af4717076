"""The reference trainer: a small, real LLM training program, watched by the sidecar like any other.

    python -m trainer pretrain                   train a small GPT on the text of this machine's Python standard library
    sidecar run -- python -m trainer pipeline    that, then midtrain, sft, dpo and ppo, with a sidecar beside it

It runs from a checkout and is not part of the installed package. It talks to the sidecar only through
``import sidecar``, like anybody's code.

Where to begin reading: loop.py is the story; stages/ says what each stage's batch and loss are; chat.py and tasks/
what they learn from; policy.py the arithmetic of DPO and PPO; report.py all that the sidecar is told beforehand.
docs/trainer.md has the map.
"""
