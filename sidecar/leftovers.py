"""Rings whose trainer is gone and that no sidecar has taken: what they are, and their removal.

Given: the ring folders of this user. Hands on: one ``Leftover`` for each ring that nobody holds.
Never: touches a ring whose trainer lives, follows a link, or removes anything unasked.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sidecar import wire
from sidecar.rendezvous import endpoint_key, ring_directories
from sidecar.ring import DRAFT_SECONDS_MAX, DRAFT_SUFFIX, SUFFIX, Orphan


class Leftover(NamedTuple):
    path: Path
    age_seconds: float
    """Since the file was last written to."""
    size_bytes: int
    run_id: str | None
    """None: no hello in it."""
    events: int
    """How many nobody has acknowledged."""


def leftovers(now_seconds: float, directories: list[Path] | None = None) -> list[Leftover]:
    """The rings that nobody holds, oldest first."""
    found = [one for path in _rings(directories) if (one := _look(path, now_seconds)) is not None]
    return sorted(found, key=lambda one: -one.age_seconds)


def remove(found: list[Leftover]) -> list[Leftover]:
    """Those removed: a ring that somebody took meanwhile stays. What was in them is gone."""
    return [one for one in found if _remove(one.path)]


def of_endpoint(found: list[Leftover], endpoint: str) -> list[Leftover]:
    prefix = f"{endpoint_key(endpoint)}-"
    return [one for one in found if one.path.name.removeprefix(".").startswith(prefix)]


def _rings(directories: list[Path] | None) -> Iterator[Path]:
    for directory in ring_directories() if directories is None else directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (directory / name for name in names if name.endswith((SUFFIX, DRAFT_SUFFIX)))


def _look(path: Path, now_seconds: float) -> Leftover | None:
    if path.name.endswith(DRAFT_SUFFIX):
        return _look_at_draft(path, now_seconds)
    try:
        ring = Orphan(path)
    except (OSError, ValueError):
        return None  # Gone, or not ours: recovery reports those.
    try:
        if not ring.claim():
            return None
        facts = path.stat()
        age_seconds = max(now_seconds - facts.st_mtime, 0.0)
        # Blocks, not length: what a ring takes from /dev/shm.
        return Leftover(path, age_seconds, facts.st_blocks * 512, _run_of(ring), sum(1 for _ in ring.events()))
    except (OSError, ValueError):
        return None
    finally:
        ring.close()  # Gives the lock back.


def _look_at_draft(path: Path, now_seconds: float) -> Leftover | None:
    """Its trainer was killed while it created its ring: there is nothing in it but the memory it takes."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    age_seconds = now_seconds - facts.st_mtime
    is_stale = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and age_seconds > DRAFT_SECONDS_MAX
    return Leftover(path, age_seconds, facts.st_blocks * 512, None, 0) if is_stale else None


def _run_of(ring: Orphan) -> str | None:
    try:
        hello = wire.decode_from_trainer(ring.hello())
    except (OSError, ValueError):
        return None
    return hello.run_id if isinstance(hello, wire.Hello) else None


def _remove(path: Path) -> bool:
    if path.name.endswith(DRAFT_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return True
    try:
        ring = Orphan(path)
    except (OSError, ValueError):
        return False
    try:
        if not ring.claim():
            return False
        ring.remove()
        return True
    finally:
        ring.close()
