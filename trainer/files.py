"""Files that are either whole or not there: written aside, synced to the disk, then renamed. And folders that one run
at a time may train into.

Given: a path. Hands on: a file to write, which takes that path's place when it is complete; a locked folder.
Never: leaves half a file: that of a process that was killed goes with the next write to the folder.
"""

import fcntl
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trainer.distributed import World
from trainer.errors import UserError


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
def own_folder(folder: str | None, world: World) -> Iterator[None]:
    """Lock ``folder`` for the length of the block; however the process ends, its lock ends with it. All ranks must call
    this together. Raises UserError if nothing can be written there, or another run is training into it."""
    if not folder:
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}", "give --out a folder of your own") from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        is_taken = world.is_main and not _lock(handle)
        if world.sum_over_ranks(is_taken)[0]:
            raise UserError(f"another run is training into {folder}", "wait for its end, or give --out another folder")
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """False: another process has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system that knows no locks on folders, such as NFS.
        return True
    return True


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed processes of this machine left behind. Live ones, such as other ranks, may still be writing,
    and so may those of other machines."""
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
