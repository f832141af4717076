"""Find the installed wandb, if there is one: its integrations also work on this stand-in.

Given: sys.path. Hands on: folders. Never: imports anything of the installed wandb itself.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def folders(inside: str) -> list[str]:
    """The folder of this name inside the installed wandb, in a list; empty when there is none."""
    for entry in sys.path:
        package = Path(entry or ".").resolve() / "wandb"
        if package != HERE and (package / inside / "__init__.py").is_file():
            return [str(package / inside)]
    return []
