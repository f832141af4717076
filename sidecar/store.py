"""The data directory: which runs there are, and where each has its journal.

Given: a folder. Hands on: run entries, paths, open journals. Never: builds a file name from what a trainer said
without making it harmless, or lets two sidecars write to one folder.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import sqlite3
import threading
import time
from pathlib import Path

import msgspec

from sidecar.errors import Exit, UserError
from sidecar.filesystems import network_file_system
from sidecar.journal import Journal
from sidecar.journal_format import SUMMARY_KEY, WrongFormat
from sidecar.journal_reader import JournalReader
from sidecar.salvage import ensure_sound, settle
from sidecar.snapshot import RunSummary

log = logging.getLogger("sidecar.store")

SUFFIX = ".sqlite"
STAMP_NS = 2_000_000_000  # A file changed less long ago may change again without a new time of change.

Stamp = tuple[int, int, int, int]
"""Time of change (of content or permissions) and size, of a journal and of its write-ahead log."""


class RunEntry(RunSummary, frozen=True, kw_only=True):
    """A run, and where its journal lies."""

    path: Path


class Store:
    """Reading needs no lock; a sidecar that writes takes :meth:`lock` first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runs = directory / "runs"
        self._lock_fd: int | None = None
        self._entries: dict[Path, tuple[Stamp, RunEntry | None]] = {}
        """What was read of each journal, and the stamp it had then."""
        self._refused: set[Path] = set()
        """Journals of another format, each logged once."""
        self._entries_lock = threading.Lock()

    def prepare(self) -> None:
        """Create the folders. Raises UserError when that is not allowed."""
        try:
            self._runs.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self._runs, os.W_OK):
                raise PermissionError(13, "Permission denied", str(self._runs))
        except OSError as error:
            raise UserError(
                f"cannot write to the data directory {self.directory}: {error.strerror}",
                "choose another with --dir PATH or SIDECAR_DIR",
                exit_code=Exit.NOT_WRITABLE,
            ) from error

        if kind := network_file_system(self.directory):
            raise UserError(
                f"the data directory {self.directory} is on a network file system ({kind}), where SQLite can lose data",
                "choose a local folder with --dir PATH, for instance under /tmp or a local scratch disk",
                exit_code=Exit.NOT_WRITABLE,
            )

    def lock(self) -> None:
        """Become the one sidecar of this folder. Raises UserError naming the pid of the other."""
        try:
            fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(
                f"cannot lock the data directory {self.directory}: {error.strerror}",
                "choose another with --dir PATH, or correct its permissions",
                exit_code=Exit.NOT_WRITABLE,
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise UserError(
                f"another sidecar (pid {owner}) already serves {self.directory}",
                f"use it, stop it with `kill {owner}`, or choose another folder with --dir PATH",
                exit_code=Exit.BUSY,
            ) from None
        self._lock_fd = fd
        with contextlib.suppress(OSError):  # The pid is for people: a full disk must not keep a sidecar from starting.
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def path(self, run_id: str) -> Path:
        """The journal of a run. The name is for people; the digest makes it unique and harmless."""
        slug = (
            "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in run_id)[:40].strip("-") or "run"
        )
        digest = hashlib.blake2s(run_id.encode(errors="surrogatepass"), digest_size=6).hexdigest()
        return self._runs / f"{slug}-{digest}{SUFFIX}"

    def journal(self, run_id: str) -> Journal:
        """Open a run's journal for writing, and create it if need be. Raises sqlite3.Error or OSError."""
        path = self.path(run_id)
        ensure_sound(path)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return Journal(path)

    def settle(self) -> None:
        """Make each journal that a killed sidecar left behind one file, so that it can be copied as such."""
        for path in self._runs.glob(f"*{SUFFIX}"):
            settle(path)

    def runs(self) -> list[RunEntry]:
        """All runs, the one last started first. A journal that cannot be read is listed as damaged, or as unreadable
        when a sidecar of another version wrote it. Thread-safe."""
        with self._entries_lock:
            found = {path: self._entry(path) for path in self._runs.glob(f"*{SUFFIX}")}
            self._entries = {path: known for path, known in self._entries.items() if path in found}
        entries = [entry for entry in found.values() if entry is not None]
        return sorted(entries, key=lambda entry: entry.order_ns, reverse=True)

    def find(self, word: str) -> RunEntry | None:
        """A run by its id, else the newest of that name, else for "latest" the one last started."""
        runs = self.runs()
        for entry in runs:
            if entry.run_id == word:
                return entry
        for entry in runs:
            if entry.name == word:
                return entry
        for entry in runs:
            if entry.path == self.path(word):  # It cannot be read, so it is listed by the name of its file.
                return entry
        return runs[0] if word == "latest" and runs else None

    def _entry(self, path: Path) -> RunEntry | None:
        """As it was read before, unless the journal has changed since."""
        stamp = _stamp(path)
        if path in self._entries and self._entries[path][0] == stamp:
            return self._entries[path][1]
        try:
            entry = _read_entry(path, is_settled=not stamp[-1])
        except WrongFormat as error:
            entry = RunEntry(path.stem, state="unreadable", path=path)
            if path not in self._refused:
                self._refused.add(path)
                log.warning("%s; %s", error, error.remedy)
        if time.time_ns() - max(stamp[0], stamp[2]) > STAMP_NS:
            self._entries[path] = stamp, entry
        return entry


def _stamp(path: Path) -> Stamp:
    """Changes with every commit: those are in the file beside the journal until SQLite copies them over."""
    found: list[int] = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            facts = file.stat()
            found += facts.st_ctime_ns, facts.st_size
        except OSError:
            found += 0, 0
    return found[0], found[1], found[2], found[3]


def _read_entry(path: Path, *, is_settled: bool) -> RunEntry | None:
    try:
        with contextlib.closing(JournalReader(path, is_settled=is_settled)) as reader:
            blob = reader.get(SUMMARY_KEY)
            if blob is not None:
                stored = msgspec.msgpack.decode(blob, type=RunSummary)
                return RunEntry(**msgspec.structs.asdict(stored), path=path)
            hellos = reader.hellos()
    except WrongFormat:
        raise
    except (sqlite3.Error, ValueError):  # ValueError: bytes that are no MessagePack, or no UTF-8.
        return RunEntry(path.stem, state="damaged", path=path)
    if not hellos:
        return None
    first = hellos[0]
    last_ns = max(hello.time_ns for hello in hellos)
    named = RunSummary(first.run_id, first.project, first.name, first.stage, "starting", None, first.time_ns, last_ns)
    return RunEntry(**msgspec.structs.asdict(named), path=path)
