"""Rings whose trainer is gone and that no sidecar has taken: what they are, and their removal.

Given: the ring folders of this user. Hands on: one ``Leftover`` for each ring that nobody holds.
Never: touches a ring whose trainer lives, follows a link, or removes anything unasked.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sidecar import wire
from sidecar.rendezvous import endpoint_key, ring_directories
from sidecar.ring import SUFFIX, Orphan


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
    return [one for one in found if one.path.name.startswith(prefix)]


def _rings(directories: list[Path] | None) -> Iterator[Path]:
    for directory in ring_directories() if directories is None else directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        yield from (directory / name for name in names if name.endswith(SUFFIX))


def _look(path: Path, now_seconds: float) -> Leftover | None:
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


def _run_of(ring: Orphan) -> str | None:
    try:
        hello = wire.decode_from_trainer(ring.hello())
    except (OSError, ValueError):
        return None
    return hello.run_id if isinstance(hello, wire.Hello) else None


def _remove(path: Path) -> bool:
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
