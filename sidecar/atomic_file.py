"""Atomic file writes: others see the old content or the new, never half of it.

Given: a path. Hands on: an open file, or the bytes written. Never: leaves half a file behind, replaces a device, a pipe
or a link, or opens to others what was private.

This holds when the writer fails or is killed. After a power cut the newest content may be missing: nothing is fsynced.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def open_atomic(path: Path, *, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of ``path`` when the block ends without an exception.

    ``mode`` is the permissions of the new file; without it, those of the file that is replaced, or the usual ones.
    Several threads and processes may write the same path: the last one to end wins. A device or a pipe is written to
    directly. Raises OSError.
    """
    if is_stream(path):
        with path.open("wb") as out:
            yield out
        return
    path = Path(os.path.realpath(path))  # Of a symbolic link, the target is replaced, not the link.
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, _mode_of(path) if mode is None else mode), "wb") as out:
            yield out
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """``data`` becomes the whole content of ``path``; see open_atomic. Raises OSError."""
    with open_atomic(path, mode=mode) as out:
        out.write(data)


def is_stream(path: Path) -> bool:
    """A device, a pipe, or a name of an open file (/dev/stdout, /dev/fd/3): nothing may take its place."""
    if path.exists() and not path.is_file():
        return True
    target = os.readlink(path) if path.is_symlink() else ""
    return target.startswith("/proc/") or os.path.realpath(path.parent).startswith("/proc/")


def _mode_of(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0o666  # The umask narrows it.
