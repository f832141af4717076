"""Numbered run names: ``qwen_run_{n}`` becomes qwen_run_1, qwen_run_2, ...

Given: the data directory and a template. Hands on: the name.
Never: gives a number twice, in any process, even when the run it was given to never began or was deleted.
"""

import fcntl
import json
import os
from pathlib import Path

from sidecar.errors import UserError

PLACE = "{n}"


def numbered(directory: Path, name: str) -> str:
    """``name`` with each ``{n}`` replaced by the next number of this template. Raises OSError, UserError."""
    if PLACE not in name:
        return name
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(directory / "numbers.json", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX)
        given = _read(os.pread(file, os.fstat(file).st_size, 0))
        given[name] = given.get(name, 0) + 1
        content = json.dumps(given, indent=1).encode()
        os.pwrite(file, content, 0)
        os.ftruncate(file, len(content))
        os.fsync(file)
    finally:
        os.close(file)
    return name.replace(PLACE, str(given[name]))


def _read(content: bytes) -> dict[str, int]:
    """Empty for a new file. Raises UserError for a damaged one: better no run than a number used again."""
    try:
        given = json.loads(content) if content else {}
    except ValueError:
        given = None
    if not isinstance(given, dict) or not all(type(number) is int for number in given.values()):
        raise UserError("numbers.json in the data directory is damaged", "put the last number of each name into it")
    return given
