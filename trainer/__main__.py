"""The entry point: pick the stage, hand it the remaining words, turn a UserError into two lines.

    python -m trainer pretrain --steps 300
    torchrun --nproc_per_node=2 -m trainer pretrain

Given: the command line. Hands on: an exit code (0 done, 2 wrong usage or input, 130 interrupted, 143 terminated).
Never: imports torch before the command is known to make sense.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from trainer import config as flags_of
from trainer.config import Config
from trainer.errors import UserError
from trainer.flags import describe, parse


class Command(NamedTuple):
    run: str
    """Where its ``run(config)`` lives, as "module:function"."""
    config: type[Config]
    what: str


COMMANDS = {
    "pretrain": Command("trainer.stages.pretrain:run", Config, "a small GPT learns plain text from nothing"),
    "midtrain": Command("trainer.stages.midtrain:run", flags_of.MidtrainConfig, "it meets conversations and problems"),
    "sft": Command("trainer.stages.sft:run", flags_of.SftConfig, "it learns to answer"),
    "dpo": Command("trainer.stages.dpo:run", flags_of.DpoConfig, "it learns which of two answers is better"),
    "ppo": Command("trainer.stages.ppo:run", flags_of.PpoConfig, "it learns from its own answers, right or wrong"),
    "pipeline": Command("trainer.pipeline:run", flags_of.PipelineConfig, "all five, each from the former's weights"),
    "eval": Command("trainer.commands:evaluate", flags_of.EvalConfig, "how good are these weights"),
    "generate": Command("trainer.commands:generate", flags_of.GenerateConfig, "what do these weights say"),
}
"""Importing this table loads neither torch nor a stage."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


def usage() -> str:
    commands = "\n".join(f"  {name:<10} {command.what}" for name, command in COMMANDS.items())
    return (
        "usage: python -m trainer COMMAND [flags]\n\n"
        f"commands:\n{commands}\n\n"
        "The flags of a command: python -m trainer COMMAND --help; their values: --show_config"
    )


def run_command(arguments: Sequence[str]) -> None:
    """Run the command named by the first word. Raises UserError if there is none of that name."""
    name = arguments[0]
    if name not in COMMANDS:
        raise UserError(f"there is no stage called {name!r}", f"choose one of: {', '.join(COMMANDS)}")
    words = [word for word in arguments[1:] if word != "--"]  # torchrun -m trainer sft -- --run x
    shown = [word for word in words if word in ("--show_config", "--show-config")]
    config = parse(COMMANDS[name].config, name, [word for word in words if word not in shown])
    if shown:
        print(describe(config))
        return
    module, function = COMMANDS[name].run.split(":")
    getattr(importlib.import_module(module), function)(config)


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that the run ends with its last words. Not under torchrun: a rank may be waiting
    for another inside a collective, where Python hears no signal, and must die at once."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


def share_the_cpu() -> None:
    """Let torch's CPU threads sleep while they wait for one another, unless the user chose otherwise.

    By default they spin, which is a fifth faster on an idle machine, and ten times slower as soon as anything else (a
    sidecar that starts, say) needs one of the cores that they all run on. Must be set before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else EXIT_USAGE
    share_the_cpu()
    end_on_sigterm()
    try:
        run_command(arguments)
    except UserError as error:
        if int(os.environ.get("RANK", 0)) == 0:  # Under torchrun every rank meets the same error: say it once.
            print(f"trainer: {error.cause}\n  try: {error.remedy}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
