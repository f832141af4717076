"""What really reached W&B's local transaction log (run-ID.wandb).

Given: the path of a .wandb file. Hands on: its records; the ``_step`` of the last whole history record in it.
Never: writes, or trusts a torn record (each has a checksum).

The format is LevelDB's log: a 7-byte file header, then blocks of 32 KiB holding fragments with a header of CRC (4),
length (2) and type (1): 1 whole, 2 first, 3 middle, 4 last. A block boundary is a safe place to start.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

BLOCK = 32 * 1024
TAIL_BLOCKS = 32
FILE_HEADER = 7
FRAGMENT = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def last_step(path: Path, parse_step: Callable[[bytes], int | None]) -> int | None:
    """The last history step on disk; None when there is no history record in the tail, or no file.

    ``parse_step`` gives the step of a serialised record, None when it is no history record.
    """
    found: int | None = None
    try:
        for record in records(path, tail_only=True):
            step = parse_step(record)
            found = step if step is not None else found
    except OSError:
        return None
    return found


def records(path: Path, *, tail_only: bool = False) -> Iterator[bytes]:
    """Whole records, oldest first, of the file or of its last MiB; stops at the first torn one. Raises OSError."""
    size = os.path.getsize(path)
    start = max(0, (size // BLOCK - TAIL_BLOCKS) * BLOCK) if tail_only else 0
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    position, pending = (FILE_HEADER if start == 0 else 0), None
    while position + FRAGMENT.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < FRAGMENT.size:
            position += left
            continue
        crc, length, kind = FRAGMENT.unpack_from(data, position)
        body = data[position + FRAGMENT.size : position + FRAGMENT.size + length]
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(body) < length or not _intact(crc, kind, body):
            return
        position += FRAGMENT.size + length
        if kind == WHOLE:
            yield body
        elif kind == FIRST:
            pending = body
        elif pending is not None:
            pending += body
            if kind == LAST:
                yield pending
                pending = None


def _intact(crc: int, kind: int, body: bytes) -> bool:
    """W&B writes plain CRC-32 (IEEE) over type and body."""
    return crc == zlib.crc32(body, zlib.crc32(bytes((kind,))))
