"""The environment in which a training command's calls to other libraries are captured.

Given: the names after ``--capture`` and the command's environment. Hands on: the variables to set for the command.
Never: imports ``sidecar.client``, or touches the environment of the sidecar itself: its own W&B child needs real wandb.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "client" / "capture"
STAND_INS = {"wandb": "standin_wandb", "swanlab": "standin_swanlab"}
"""Libraries replaced by a package on PYTHONPATH; with a ``+`` behind the name the real one is patched instead."""
NAMES = ("wandb", "wandb+", "swanlab", "swanlab+", "tensorboard", "torch")

INTERPRETER = re.compile(r"python[\d.]*t?")


class UnknownCapture(ValueError):
    """Not one of NAMES."""


def capture_environment(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to ``environ``: PYTHONPATH (the user's own entries kept, behind ours) and SIDECAR_CAPTURE.

    Empty for no names. Raises UnknownCapture. Python run with -I or -E ignores PYTHONPATH and cannot be captured.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in wanted:
        if name not in NAMES:
            raise UnknownCapture(f"cannot capture {name!r}: choose from {', '.join(NAMES)}")
    if not wanted:
        return {}
    ours = [str(FOLDER / "site")] + [str(FOLDER / STAND_INS[name]) for name in wanted if name in STAND_INS]
    theirs = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in ours]
    return {"PYTHONPATH": os.pathsep.join([*ours, *theirs]), "SIDECAR_CAPTURE": ",".join(wanted)}


def isolated(command: Sequence[str]) -> str | None:
    """The option by which a Python command ignores PYTHONPATH (-I, -E), None when there is none."""
    for at, word in enumerate(command):
        if INTERPRETER.fullmatch(os.path.basename(word)) and (option := _isolating(iter(command[at + 1 :]))):
            return option
    return None


def _isolating(words: Iterator[str]) -> str | None:
    """Reads the interpreter's options as it does itself: letters may share a dash, and some take a value."""
    for word in words:
        if word == "--check-hash-based-pycs":
            next(words, None)
        elif not word.startswith("-") or word in ("-", "--"):
            return None
        elif not word.startswith("--"):
            for place, letter in enumerate(word[1:], 1):
                if letter in "IE":
                    return f"-{letter}"
                if letter in "cm":  # What follows is the program.
                    return None
                if letter in "WX":
                    if place == len(word) - 1:
                        next(words, None)
                    break
    return None
