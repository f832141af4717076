"""Lines to the terminal, as wandb writes them; silent with WANDB_SILENT."""

import os
import sys
from typing import Any

_said: set[str] = set()


def termlog(string: str = "", newline: bool = True, repeat: bool = True, prefix: bool = True, **_: Any) -> None:
    _print(string, newline, repeat, prefix)


def termwarn(string: str, newline: bool = True, repeat: bool = True, prefix: bool = True, **_: Any) -> None:
    _print(f"WARNING {string}", newline, repeat, prefix)


def termerror(string: str, newline: bool = True, repeat: bool = True, prefix: bool = True, **_: Any) -> None:
    _print(f"ERROR {string}", newline, repeat, prefix)


def termsetup(settings: Any = None, logger: Any = None) -> None:
    pass


def _print(text: str, newline: bool, repeat: bool, prefix: bool) -> None:
    if os.environ.get("WANDB_SILENT", "").lower() in ("true", "1") or (not repeat and text in _said):
        return
    _said.add(text)
    try:
        print(f"wandb: {text}" if prefix else text, file=sys.stderr, end="\n" if newline else "", flush=True)
    except (OSError, ValueError):  # No terminal any more.
        pass
