"""The reference trainer: a small, real LLM training program, watched by the sidecar like any other.

    python -m trainer pretrain                   train a small GPT on the text of this machine's Python standard library
    sidecar run -- python -m trainer pipeline    that, then midtrain, sft, dpo and ppo, with a sidecar beside it

It runs from a checkout and is not part of the installed package. It talks to the sidecar only through
``import sidecar``, like anybody's code.

To read it, begin with loop.py, which is the same for every stage; then model.py, one of stages/; and monitoring.py,
which is all that the sidecar is told beforehand. docs/trainer.md has the reading order.
"""
