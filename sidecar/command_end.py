"""How the command of a ``sidecar run`` ended, which inside a training process cannot be known: ``sys.exit(3)`` looks
like a good end there.

Given: from the launcher, the exit code, as a file in the data directory; the journals. Hands on: a RankEnded event for
each training process that ended with the command. Never: needs a sidecar to be there (the next one on the directory
takes the file), or blames a process for what happened after it.

A command may start several training processes, at once or one after another, and do other work after them. The kernel
knows the exit code of each. Where it does not tell, the command's belongs to those that ended in its last moments. If
one of these is known to have failed or died, that is what the exit code tells, and the others stay as they are.
"""

import contextlib
import logging
import os
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec

from sidecar import launched, wire
from sidecar.atomic_file import write_atomic
from sidecar.exit_codes import ExitCodes
from sidecar.journal_reader import JournalReader

log = logging.getLogger("sidecar.command_end")

Submit = Callable[[str, wire.Event], None]
"""Queues an event for a run's journal."""

FOLDER = "ended"
SUFFIX = ".json"
BYTES_MAX = 65_536
OWN_SECONDS_MAX = 60.0  # From the goodbye of the command's own process to its end: flushing, exit handlers, devices.
OTHER_SECONDS_MAX = 5.0  # From that of one below it (torchrun, a shell script), after which other work may have failed.
TAIL_ROWS = 2_048


Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class CommandEnd(msgspec.Struct, frozen=True):
    launch_id: str
    host: str
    pid: Number
    """The command's own process; a training process where no torchrun or shell stands between."""
    began_ns: Number
    """Of the launch, on the wall clock."""
    ended_ns: Number
    ended_mono_ns: Number
    exit_code: Number
    """As a shell reports it: 128 + n after signal n."""


class Process(msgspec.Struct):
    """A training process that has ended."""

    hello: wire.Hello
    ended_ns: int
    state: str
    """finished | failed | lost"""
    exit_code: int | None = None
    """Its own, where the kernel told."""


def leave(directory: Path, end: CommandEnd) -> Path | None:
    """For the sidecar of this directory, which removes the file once its journals have the news. None: there is no
    space, or no permission."""
    folder = directory / FOLDER
    path = folder / f"{secrets.token_hex(8)}{SUFFIX}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(end), mode=0o600)
        return path
    return None


class EndedCommands:
    """For the thread of the intake."""

    def __init__(self, directory: Path, submit: Submit, commit: Callable[[], object]) -> None:
        """``commit`` writes what was queued."""
        self._directory, self._submit, self._commit = directory, submit, commit
        self._done: set[Path] = set()
        """Files that were taken, and that could not be removed."""
        self._exit_codes = ExitCodes()

    def greet(self, hello: wire.Hello) -> None:
        """A training process has introduced itself."""
        self._exit_codes.greet(hello)

    def waiting(self) -> list[Path]:
        """Ask before looking for dead processes: then those that ended before the command are found."""
        self._exit_codes.look()
        try:
            names = os.listdir(self._directory / FOLDER)
        except OSError:
            return []
        paths = [self._directory / FOLDER / name for name in sorted(names) if name.endswith(SUFFIX)]
        return [path for path in paths if path not in self._done]

    def take(self, paths: list[Path]) -> None:
        """Journal what these files say, then remove them."""
        if not paths:
            return
        self._commit()  # Those found dead just now, so that the journals say so.
        for path in paths:
            for run_id, event in self._events(path):
                self._submit(run_id, event)
            self._commit()
            self._done.add(path)
            with contextlib.suppress(OSError):
                path.unlink()
                self._done.discard(path)

    def _events(self, path: Path) -> list[tuple[str, wire.RankEnded]]:
        try:
            with path.open("rb") as file:
                end = msgspec.json.decode(file.read(BYTES_MAX), type=CommandEnd)
            return events_of(self._directory, end, self._exit_codes.of)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", path, error)
            return []


def events_of(
    directory: Path, end: CommandEnd, exit_code_of: Callable[[wire.Hello], int | None] = lambda hello: None
) -> list[tuple[str, wire.RankEnded]]:
    """What to journal, by run. ``exit_code_of``: what the kernel says of a process."""
    hellos = launched.hellos(directory, end.launch_id, end.began_ns)
    begun_ns = max((hello.time_ns for _, hello in hellos), default=0)
    ended = list(_ended(hellos))
    for process in ended:
        process.exit_code = exit_code_of(process.hello)
    last = [one for one in ended if one.exit_code is None and one.ended_ns >= begun_ns and _is_recent(one, end)]
    known = [one for one in ended if one.exit_code]
    blamed = [one for one in (*known, *last) if one.state != "finished"] or known or last
    return [(process.hello.run_id, _event(process, end)) for process in blamed]


def _event(process: Process, end: CommandEnd) -> wire.RankEnded:
    code = end.exit_code if process.exit_code is None else process.exit_code
    who = "the command" if code == end.exit_code else "the training process"
    return wire.RankEnded(
        end.ended_ns, end.ended_mono_ns, process.hello.rank, process.hello.session, f"{who} {in_words(code)}", code
    )


def in_words(exit_code: int) -> str:
    """ended with exit code 137 (SIGKILL)"""
    name = ""
    with contextlib.suppress(ValueError):
        name = f" ({signal.Signals(exit_code - 128).name})"
    return f"ended with exit code {exit_code}{name}"


def _is_recent(process: Process, end: CommandEnd) -> bool:
    own = process.hello.pid == end.pid and process.hello.host == end.host
    limit_seconds = OWN_SECONDS_MAX if own else OTHER_SECONDS_MAX
    return (end.ended_ns - process.ended_ns) / 1e9 <= limit_seconds


def _ended(hellos: list[tuple[Path, wire.Hello]]) -> Iterator[Process]:
    """The newest process of each rank of each run, if it has ended."""
    newest: dict[tuple[Path, int], wire.Hello] = {}
    for path, hello in hellos:
        known = newest.get((path, hello.rank))
        if known is None or hello.time_ns > known.time_ns:
            newest[path, hello.rank] = hello
    for path in {path for path, _ in newest}:
        ends = _ends(path)
        for (of, _), hello in newest.items():
            if of == path and hello.session in ends:
                yield Process(hello, *ends[hello.session])


def _ends(path: Path) -> dict[int, tuple[int, str]]:
    """When and how the processes ended whose end is in the last rows of a journal, by session."""
    ends: dict[int, tuple[int, str]] = {}
    try:
        with closing(JournalReader(path)) as reader:
            for record in reader.records(after_row=max(0, reader.last_row() - TAIL_ROWS)):
                event = record.event
                if isinstance(event, wire.Finished):
                    ends[record.session] = event.time_ns, "failed" if event.state == "failed" else "finished"
                elif isinstance(event, wire.RankEnded) and event.exit_code is None:
                    ends.setdefault(event.session, (event.time_ns, "lost"))
    except (sqlite3.Error, OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
    return ends
