"""What really reached W&B's local transaction logs (run-ID.wandb), and which of them the server has.

Given: the folder that W&B writes to, a run's W&B id. Hands on: the logs, their records, the last ``_step`` in them.
Never: writes a log, trusts a torn record (each has a checksum), or takes a log for sent that is not marked so.

The format is LevelDB's log: a 7-byte file header, then blocks of 32 KiB holding fragments with a header of CRC (4),
length (2) and type (1): 1 whole, 2 first, 3 middle, 4 last. A block boundary is a safe place to start.
"""

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
TAIL_BLOCKS = 32
FILE_HEADER = 7
FRAGMENT = struct.Struct("<IHB")
SESSION_TIME = "%Y%m%d_%H%M%S"
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

ParseStep = Callable[[bytes], int | None]
"""The step of a serialised record, None when it is no history record."""


def logs(folder: str | Path, run: str) -> list[Path]:
    """The logs of a run, in the order of their sessions. ``folder`` is the one that holds ``wandb/``."""
    found = Path(folder, "wandb").glob(f"*run-*-{run}/run-{run}.wandb")
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))


def wait_for_free_folder(folder: str | Path, run: str) -> None:
    """wandb names the folder of a session by the second, and two sessions within one second would share a file.
    Returns once the current second has no folder of this run."""
    while any(Path(folder, "wandb").glob(f"*run-{time.strftime(SESSION_TIME)}-{run}")):
        time.sleep(0.02)


def unsent(folder: str | Path, run: str) -> list[Path]:
    """What was written for this run while it was offline, and nobody has sent since."""
    return [path for path in logs(folder, run) if path.parent.name.startswith("offline-") and not is_sent(path)]


def is_sent(path: Path) -> bool:
    return _mark(path).exists()


def mark_sent(paths: Iterable[Path]) -> None:
    """As `wandb sync` does: it then leaves them out, and `wandb clean` removes them."""
    for path in paths:
        with contextlib.suppress(OSError):
            _mark(path).touch()


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".synced")


def last_step_of(folder: str | Path, run: str) -> int | None:
    """The last step in the logs of this run, -1 when they hold none, None when there are no logs."""
    found = logs(folder, run)
    for path in reversed(found):
        step = last_step(path)
        if step is not None:
            return step
    return -1 if found else None


def last_step(path: Path, parse_step: ParseStep | None = None) -> int | None:
    """The last history step on disk; None when there is no history record in the tail, or no file."""
    parse_step, found = parse_step or history_step, None
    try:
        for record in records(path, tail_only=True):
            step = parse_step(record)
            found = step if step is not None else found
    except OSError:
        return None
    return found


def last_row_of(folder: str | Path, run: str) -> dict[str, Any]:
    """The last history row in the logs of this run, empty when there is none. Needs the wandb library."""
    for path in reversed(logs(folder, run)):
        row: dict[str, Any] = {}
        with contextlib.suppress(OSError):
            for record in records(path, tail_only=True):
                row = history_row(record) or row
        if row:
            return row
    return {}


class Tail:
    """A log that grows: each reading costs what was added since the one before."""

    def __init__(self, path: Path, parse_step: ParseStep | None = None) -> None:
        self.path, self._parse, self._at = path, parse_step or history_step, FILE_HEADER
        self.step = -1
        """The last history step read."""

    @property
    def is_gone(self) -> bool:
        """Somebody removed it; whoever writes it does not notice."""
        return not self.path.exists()

    def read(self) -> int:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(self._at)
            for record, behind in _records(file.read(), self._at):
                step = self._parse(record)
                self.step, self._at = self.step if step is None else step, behind
        return self.step


def records(path: Path, *, tail_only: bool = False) -> Iterator[bytes]:
    """Whole records, oldest first, of the file or of its last MiB; stops at the first torn one. Raises OSError."""
    size = os.path.getsize(path)
    start = max(0, (size // BLOCK - TAIL_BLOCKS) * BLOCK) if tail_only else 0
    start = start or FILE_HEADER
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    for record, _ in _records(data, start):
        yield record


def _records(data: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """(record, place in the file behind it) of ``data``, which begins at ``start`` in the file."""
    position, pending = start, None
    end = start + len(data)
    while position + FRAGMENT.size <= end:
        left = BLOCK - position % BLOCK
        if left < FRAGMENT.size:
            position += left
            continue
        crc, length, kind = FRAGMENT.unpack_from(data, position - start)
        begin = position - start + FRAGMENT.size
        body = data[begin : begin + length]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(body) < length or not _intact(crc, kind, body):
            return
        position += FRAGMENT.size + length
        if kind == WHOLE:
            yield body, position
        elif kind == FIRST:
            pending = body
        elif pending is not None:
            pending += body
            if kind == LAST:
                yield pending, position
                pending = None


def _intact(crc: int, kind: int, body: bytes) -> bool:
    """W&B writes plain CRC-32 (IEEE) over type and body."""
    return crc == zlib.crc32(body, zlib.crc32(bytes((kind,))))


def history_step(record: bytes) -> int | None:
    parsed = _history(record)
    return parsed.step.num if parsed is not None else None


def history_row(record: bytes) -> dict[str, Any] | None:
    parsed = _history(record)
    return {item.key: json.loads(item.value_json) for item in parsed.item} if parsed is not None else None


def _history(record: bytes) -> Any:
    """A serialised record's history part, None when it has none. Needs the wandb library."""
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # Its names are made at run time, differently for each version of protobuf.
    parsed = messages.Record()
    try:
        parsed.ParseFromString(record)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError has moved between its versions.
        return None
    return parsed.history if parsed.WhichOneof("record_type") == "history" else None
