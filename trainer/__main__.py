"""The entry point: parse the command line, run the command, turn a UserError into two lines.

    python -m trainer pretrain --steps 300
    torchrun --nproc_per_node=2 -m trainer pretrain

Given: the command line. Hands on: an exit code (0 done, 2 wrong usage or input, 130 interrupted, 143 terminated).
Never: imports torch before the command is known to make sense.
"""

import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from trainer.config import CONFIGS, PipelineConfig
from trainer.errors import UsageError, UserError
from trainer.flags import SHOW_CONFIG, describe, parse, unknown_variables
from trainer.stages import STAGES, pipeline_config


class Command(NamedTuple):
    entry_point: str  # "module:function", called with arguments and the config.
    summary: str
    arguments: tuple[str, ...] = ()


COMMANDS = {
    **{name: Command("trainer.commands:run_stage", stage.summary, (name,)) for name, stage in STAGES.items()},
    "pipeline": Command("trainer.pipeline:run", "all five, each from the previous one's weights"),
    "eval": Command("trainer.commands:evaluate", "how good are these weights"),
    "generate": Command("trainer.commands:generate", "what do these weights say"),
}
"""Importing this table loads neither torch nor a stage."""

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
RANK_0_SECONDS = 5.0  # To print its error; then torchrun ends the others, who need not wait to the end.
PR_SET_PDEATHSIG = 1  # Of prctl(2): the signal to get when the parent dies.


def usage() -> str:
    commands = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: python -m trainer COMMAND [flags]\n\n"
        f"commands:\n{commands}\n\n"
        "The flags of a command: python -m trainer COMMAND --help; their values: --show_config"
    )


def run_command(arguments: Sequence[str]) -> None:
    """Run the command named by the first word. Raises UsageError if there is none of that name."""
    name = arguments[0]
    if name not in COMMANDS:
        raise UsageError(f"there is no stage called {name!r}", f"choose one of: {', '.join(COMMANDS)}")
    words = [word for word in arguments[1:] if word != "--"]  # torchrun -m trainer sft -- --run x
    config = parse(CONFIGS[name], name, words)
    for line in unknown_variables():
        say(f"trainer: {line}", sys.stderr)
    if not {*SHOW_CONFIG}.isdisjoint(words):
        say(describe_pipeline(config) if isinstance(config, PipelineConfig) else describe(config))
        return
    command = COMMANDS[name]
    module, function = command.entry_point.split(":")
    run = getattr(importlib.import_module(module), function)
    end_on_sigterm()  # Only now: while torch is imported, an exception from a signal may be lost.
    run(*command.arguments, config)


def describe_pipeline(config: PipelineConfig) -> str:
    """The values of each stage, under its name."""
    stages = {name: pipeline_config(config, name, group=config.group) for name in STAGES}
    return "\n\n".join(f"[{name}]\n{describe(stage)}" for name, stage in stages.items())


def is_main_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str, stream: TextIO | None = None) -> None:
    """Print on the main process only."""
    if is_main_process():
        print(text, file=stream)


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that the run ends with its last words. Not under torchrun: a rank may be waiting
    for another inside a collective, where Python hears no signal, and must die at once."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))


def die_with_torchrun() -> None:
    """Otherwise the ranks of a torchrun that was killed would train on beside those of the next one."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def let_rank_0_speak() -> None:
    """Wait on every other rank: torchrun ends rank 0 as soon as one of them has failed, maybe before it has printed."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not is_main_process():
        time.sleep(RANK_0_SECONDS)


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
    die_with_torchrun()
    try:
        run_command(arguments)
    except UserError as error:
        say(f"trainer: {error.cause}\n  try: {error.remedy}", sys.stderr)
        if isinstance(error, UsageError):
            let_rank_0_speak()
        elif not is_main_process():  # Only flags are sure to be wrong on every rank.
            print(f"trainer: rank {os.environ['RANK']}: {error.cause}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        say("trainer: interrupted", sys.stderr)
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
