"""The tails of dead trainers: events that are in a ring and nowhere else.

Given: the ring folders and an endpoint. Hands on: orphaned events to the intake, like any other frame.
Never: touches the ring of a living trainer, trusts a file of another user, or removes a ring before its commit.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sidecar import wire
from sidecar.intake import Intake
from sidecar.journal import Stream
from sidecar.rendezvous import endpoint_key, ring_directories
from sidecar.ring import DRAFT_SECONDS_MAX, DRAFT_SUFFIX, SUFFIX, Orphan, RingRefused
from sidecar.telemetry import Telemetry

log = logging.getLogger("sidecar.recovery")

EVENTS_PER_COMMIT = 32_768


class Recovery:
    """Call :meth:`scan` at start and every second or two. It is cheap: it reads only rings whose lock is free."""

    def __init__(self, intake: Intake, telemetry: Telemetry, endpoint: str) -> None:
        self._intake, self._telemetry = intake, telemetry
        self._endpoint = endpoint
        self._refused: set[str] = set()
        self._failed: set[str] = set()
        """Rings whose failure was counted and logged, once each."""

    def scan(self) -> list[wire.Hello]:
        """Journal every orphaned ring of our endpoint; return the Hello of each trainer found to be gone."""
        gone: list[wire.Hello] = []
        for path in rings_of(self._endpoint):
            if path.name in self._refused:
                continue
            try:
                hello = self._recover(path)
            except FileNotFoundError:
                continue  # Its trainer finished between the listing and now.
            except Exception as error:  # noqa: BLE001 - Task boundary: one bad ring must not keep us from the others.
                self._note_failure(path, error)
                continue
            if hello is not None:
                gone.append(hello)
        return gone

    def remove_drafts(self, now_seconds: float) -> None:
        """Give back the memory of rings whose trainer was killed while it created them."""
        for path in _files_of(self._endpoint, ".", DRAFT_SUFFIX):
            with contextlib.suppress(OSError):
                if now_seconds - path.stat().st_mtime > DRAFT_SECONDS_MAX:
                    path.unlink()

    def _recover(self, path: Path) -> wire.Hello | None:
        ring = Orphan(path)
        try:
            if not ring.claim():
                return None
            hello = wire.decode_from_trainer(ring.hello())
            if not isinstance(hello, wire.Hello):
                raise RingRefused("no hello in it")
            if not self._ingest(ring, hello):
                return None
            ring.remove()
            self._telemetry.rings_recovered_total += 1
            return hello
        finally:
            ring.close()

    def _ingest(self, ring: Orphan, hello: wire.Hello) -> bool:
        """Journal the tail. False: the journal does not take it now, so the ring stays for the next scan."""
        oldest, events = ring.oldest_seq(), ring.events()
        stream = self._intake.ingest(hello, oldest, oldest, [])
        if stream is None:
            return False
        end = oldest
        for first_seq, records in _frames(events):
            if first_seq - stream.next_seq >= EVENTS_PER_COMMIT and not self._commit_through(stream, first_seq):
                return False
            # The oldest event of the whole ring, not of this frame: nothing between the two may be declared lost.
            self._intake.ingest(hello, first_seq, oldest, records)
            end = first_seq + len(records)
        return self._commit_through(stream, end)

    def _commit_through(self, stream: Stream, end: int) -> bool:
        self._intake.commit()
        return stream.next_seq >= end

    def _note_failure(self, path: Path, error: Exception) -> None:
        """A ring that is damaged or not ours is left alone from now on; after other faults it is tried again."""
        for_good = not isinstance(error, OSError) or isinstance(error, RingRefused)
        if for_good:
            self._refused.add(path.name)
        if for_good or path.name not in self._failed:
            self._failed.add(path.name)
            self._telemetry.rings_refused_total[type(error).__name__] += 1
            log.warning("the ring %s is not taken%s: %s", path, "" if for_good else " now", error)


def _frames(events: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    while batch := list(islice(events, wire.FRAME_EVENTS_MAX)):
        yield batch[0][0], [payload for _, payload in batch]


def rings_of(endpoint: str) -> Iterator[Path]:
    """Every ring file on this machine that was made for ``endpoint``, its trainer living or not."""
    return _files_of(endpoint, "", SUFFIX)


def _files_of(endpoint: str, before: str, suffix: str) -> Iterator[Path]:
    prefix = f"{before}{endpoint_key(endpoint)}-"
    for directory in ring_directories():
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        yield from (directory / name for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix))
