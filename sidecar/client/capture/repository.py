"""The project of a script that names none: like wandb, the name of the git repository and the script's folder in it.

Given: the working folder and the script. Hands on: a name. Never: runs git.
"""

import os
import sys
from pathlib import Path


def project() -> str | None:
    """None outside a repository."""
    try:
        here = Path.cwd().resolve()
        root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
        if root is None:
            return None
        script = Path(os.path.abspath(sys.argv[0] or ".")).parent
        inside = "" if script == root or root not in script.parents else f"-{script.relative_to(root)}"
    except OSError:
        return None
    return f"{root.name}{inside}".replace(os.sep, "_")
