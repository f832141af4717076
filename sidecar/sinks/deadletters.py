"""Rows that a sink can never take: kept on disk with the reason, so that one bad row does not stop the rest.

Given: a row and why it failed. Hands on: one JSON line in DIR/dead-letters/RUN.SINK.jsonl.
Never: raises; a full disk loses the copy (the journal still has the row), counted by the caller.
"""

import hashlib
import time
from pathlib import Path

import msgspec

from sidecar.rows import Row

_encoder = msgspec.json.Encoder()
REASON_CHARS_MAX = 500
STEM_CHARS_MAX = 120


class DeadLetter(msgspec.Struct):
    number: int
    time: float
    """When it was given up, seconds since the epoch."""
    reason: str
    row: Row


class DeadLetters:
    def __init__(self, directory: Path, run_id: str, sink: str) -> None:
        self.path = directory / f"{file_stem(run_id)}.{sink}.jsonl"

    def add(self, row: Row, number: int, reason: str) -> bool:
        """False when it could not be written."""
        letter = DeadLetter(number, time.time(), reason[:REASON_CHARS_MAX], row)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(_encoder.encode(letter) + b"\n")
        except (OSError, msgspec.EncodeError, TypeError):
            return False
        return True


def file_stem(run_id: str) -> str:
    """``run_id`` as a file name: anything but letters, digits, ``._-`` becomes ``_``; no leading dot; 120 at most.

    An id that had to be changed gets a digest: two runs never share a file.
    """
    clean = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in run_id)
    clean = clean.lstrip(".")[:STEM_CHARS_MAX]
    if clean and clean == run_id:
        return clean
    digest = hashlib.blake2s(run_id.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{clean[: STEM_CHARS_MAX - len(digest) - 1] or '_'}-{digest}"
