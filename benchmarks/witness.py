"""An emitting trainer stand-in and an independent reader: what went in, counted outside; what came out, read outside.

Given: an endpoint, a pace, a counter in shared memory. Hands on: after each call, the counter is what was emitted.
Never: uses the journal's own reading code: the reader knows SQLite, MessagePack and CRC-32, nothing of the product.

    python -m benchmarks.witness ENDPOINT RUN_ID COUNTER --rate 10000 --seconds 10
"""

import contextlib
import mmap
import sqlite3
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import common

COUNTER = struct.Struct("<QQ")  # events emitted by all processes so far; nanoseconds of the slowest call
BURST_SECONDS = 0.002


def counter(path: Path) -> mmap.mmap:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(COUNTER.size)
        return mmap.mmap(file.fileno(), COUNTER.size)


def emitted(path: Path) -> int:
    return COUNTER.unpack(counter(path)[:])[0]


def count(shared: mmap.mmap, events: int, slowest_ns: int = 0) -> None:
    """After a call has returned: so many events are emitted now."""
    shared[:] = COUNTER.pack(events, slowest_ns)


def slowest_call_seconds(path: Path) -> float:
    return COUNTER.unpack(counter(path)[:])[1] / 1e9


class Journaled(NamedTuple):
    """One stream (process) of a run, in journal order: its session, first sequence numbers and steps; gaps declared."""

    sequences: dict[int, list[int]]
    steps: dict[int, list[int]]
    gaps: int
    damaged: int


DAMAGED: list[Any] = []
"""Stands for the events of a row whose checksum is wrong."""


def events(path: Path) -> Iterator[tuple[int, int, int, list[Any]]]:
    """(session, rank, sequence number, event) in journal order."""
    query = (
        "SELECT s.session, s.rank, f.first_seq, f.crc, f.records"
        " FROM frames f JOIN streams s ON s.id = f.stream ORDER BY f.row"
    )
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for session, rank, first_seq, crc, blob in database.execute(query):
            if zlib.crc32(blob) == crc:
                for seq, data in enumerate(msgspec.msgpack.decode(blob), first_seq):
                    yield session, rank, seq, msgspec.msgpack.decode(data)
            else:
                yield session, rank, first_seq, DAMAGED


def read_journal(path: Path) -> Journaled:
    sequences: dict[int, list[int]] = {}
    steps: dict[int, list[int]] = {}
    gaps = damaged = 0
    for session, rank, seq, event in events(path):
        if event is DAMAGED:
            damaged += 1
        elif rank < 0:
            gaps += event[6] if event[0] == "gap" else 0
        else:
            sequences.setdefault(session, []).append(seq)
            if event[0] == "step":
                steps.setdefault(session, []).append(event[3])
    return Journaled(sequences, steps, gaps, damaged)


def journal_in(folder: Path) -> Journaled:
    """The journal of the only run below ``folder``. Raises ValueError when there is none, or more than one."""
    (path,) = [path for path in folder.rglob("*.sqlite") if _has_frames(path)]
    return read_journal(path)


def _has_frames(path: Path) -> bool:
    """Whether it is a journal, and not a sidecar's other databases."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'frames'").fetchone())


class Comparison(NamedTuple):
    emitted: int
    journaled: int
    lost: int
    duplicated: int
    out_of_order: int
    gaps: int
    damaged: int
    uncounted: int
    """Journaled but not counted: at most one per killed trainer, which died between the call and the count."""

    def print(self) -> None:
        print(
            f"emitted {self.emitted:,}  journaled {self.journaled:,}  lost {self.lost}  duplicated {self.duplicated}  "
            f"out of order {self.out_of_order}  gaps declared {self.gaps}  rows damaged {self.damaged}  "
            f"journaled past the count {self.uncounted}", flush=True
        )  # fmt: skip

    @property
    def nothing_lost(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.damaged)


def compare(journaled: Journaled, total: int, trainers: int) -> Comparison:
    """``total`` emitted by ``trainers`` processes one after the other, steps numbered through from 0.

    A trainer that died between its call and the count left one more event than was counted; its successor then
    numbers its first step alike. Such a pair is neither lost nor a duplicate.
    """
    everything = [step for steps in journaled.steps.values() for step in steps]
    distinct = set(everything)
    lost = sum(1 for step in range(total) if step not in distinct)
    within = sum(len(steps) - len(set(steps)) for steps in journaled.steps.values())
    repeated = len(everything) - len(distinct) - within
    uncounted = repeated + sum(1 for step in distinct if step >= total)
    duplicated = within + sum(len(seqs) - len(set(seqs)) for seqs in journaled.sequences.values())
    duplicated += max(0, uncounted - trainers)
    disorder = sum(1 for seqs in journaled.sequences.values() for a, b in _pairs(seqs) if b != a + 1)
    disorder += sum(1 for steps in journaled.steps.values() for a, b in _pairs(steps) if b <= a)
    return Comparison(
        total, len(everything), lost, duplicated, disorder, journaled.gaps, journaled.damaged, uncounted
    )


def _pairs(values: list[int]) -> Iterator[tuple[int, int]]:
    return zip(values, values[1:], strict=False)


def emit(endpoint: str, run_id: str, path: Path, rate: float, seconds: float) -> None:
    """Steps at ``rate`` a second in short bursts, going on from the counter, until told or timed to stop, or killed."""
    import sidecar

    shared = counter(path)
    run = sidecar.init("witness", run_id=run_id, endpoint=endpoint, total_steps=int(rate * seconds))
    first, slowest = COUNTER.unpack(shared[:])
    step, burst, began = first, max(1, int(rate * BURST_SECONDS)), time.perf_counter()
    ends, told = time.perf_counter() + seconds, path.with_suffix(".stop")
    while time.perf_counter() < ends and not told.exists():
        for _ in range(burst):
            arguments = common.step_arguments(step)
            called = time.perf_counter_ns()
            run.step(step, **arguments)
            slowest = max(slowest, time.perf_counter_ns() - called)
            step += 1
            count(shared, step, slowest)
        due = began + (step - first) / rate
        if (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        elif left < -0.2:  # Stopped for a while, or too slow: do not catch up by a flood.
            began -= left
    run.finish(timeout_seconds=30.0)


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("run_id")
    parser.add_argument("counter", type=Path)
    parser.add_argument("--rate", type=float, default=10_000)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    emit(options.endpoint, options.run_id, options.counter, options.rate, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
