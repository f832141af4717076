"""Files that others read appear whole or not at all.

Given: a path. Hands on: an open file. Never: leaves half a file behind, or replaces a device or a pipe.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def open_whole(path: Path) -> Iterator[IO[bytes]]:
    """Written beside ``path``, then renamed; a device or a pipe is written to as it is. Raises OSError."""
    if path.exists() and not path.is_file():
        with path.open("wb") as out:
            yield out
        return
    draft = path.with_name(path.name + ".partial")
    try:
        with draft.open("wb") as out:
            yield out
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
