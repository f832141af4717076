"""Files that are either whole or not there: written aside, synced to the disk, then renamed. And folders that belong to
one process at a time.

Given: a path. Hands on: a file to write, which takes that path's place when it is complete.
Never: leaves half a file: that of a process that was killed goes with the next write to the folder.
"""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` at the end of the block unless that raises. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Is ``folder`` this process' own for the length of the block? False: it is another's. However a process ends, its
    claim ends with it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system that knows no locks on folders, such as NFS.
        return True
    return True


def _remove_leftovers(folder: Path) -> None:
    """What processes of this machine wrote aside when they were killed. Those alive may still be writing, such as the
    other ranks, and so may all those of another machine."""
    for aside in folder.glob(f".*.{platform.node()}.*.tmp"):
        pid = aside.name.split(".")[-2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            aside.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # Another user's.
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut as well."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
