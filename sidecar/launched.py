"""Which run a launch is at. Its trainer may choose the run id itself, and may begin several runs, one after another.

Given: a data directory, a launch id. Hands on: the Hellos of its processes; the id of the run that it began last.
Never: writes, or reads journals that were not written to since the launch.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sidecar.journal_reader import JournalReader
from sidecar.store import SUFFIX
from sidecar.wire import Hello


def newest_run(directory: Path, launch_id: str, since_ns: int) -> str | None:
    """None before the first process of the launch has introduced itself."""
    ours = [hello for _, hello in hellos(directory, launch_id, since_ns)]
    return max(ours, key=lambda hello: hello.time_ns).run_id if ours else None


def hellos(directory: Path, launch_id: str, since_ns: int) -> list[tuple[Path, Hello]]:
    """Of the launch's processes that have started since then, each with its run's journal."""
    found = [(path, hello) for path in _written_since(directory / "runs", since_ns) for hello in _hellos(path)]
    return [(path, hello) for path, hello in found if hello.launch_id == launch_id and hello.time_ns >= since_ns]


def _written_since(folder: Path, since_ns: int) -> Iterator[Path]:
    for path in folder.glob(f"*{SUFFIX}"):
        # SQLite writes to the -wal file; the journal itself changes now and then.
        if any(_changed_ns(one) >= since_ns for one in (path, path.with_name(path.name + "-wal"))):
            yield path


def _changed_ns(path: Path) -> int:
    try:
        # The kernel stamps files with the time of its last timer tick, up to 10 ms before the clock's.
        return path.stat().st_mtime_ns + 10_000_000
    except OSError:
        return 0


def _hellos(path: Path) -> list[Hello]:
    try:
        with closing(JournalReader(path)) as reader:
            return reader.hellos()
    except (sqlite3.Error, OSError, ValueError):
        return []  # It is being created at this moment, or is damaged, which others report.
