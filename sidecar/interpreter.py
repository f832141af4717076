"""Our own code in another Python process, whatever lies in the folder that it is started in.

Given: statements. Hands on: the argv of an interpreter that runs them with this very package importable.
Never: puts the working directory on the module path: a user's inspect.py or queue.py would take the place of Python's.
"""

import sys
from pathlib import Path

PREPARE = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
import sidecar
sys.path.append(sys.path.pop(0))
"""
"""This package and no other that is installed; what else lies beside it comes last on the path and shadows nothing."""


def python(statements: str, *arguments: str) -> list[str]:
    """An argv; the statements find the arguments in sys.argv[1:]."""
    root = Path(__file__).resolve().parents[1]
    return [sys.executable, "-P", "-c", PREPARE + statements, str(root), *arguments]
