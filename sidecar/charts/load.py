"""Runs for the charts: from a data directory, from a folder of journals, or from exported JSON lines and Parquet.

Given: where to look and what for. Hands on: one RunData per run, oldest first, each file read once from end to end.
Never: writes, holds a run in memory, or fails because one file of many is damaged or still being written.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from sidecar.charts import exports
from sidecar.charts.data import Collector, RunData, tell_apart
from sidecar.damage import damaged_text
from sidecar.derive.snapshot import snapshot
from sidecar.errors import Exit, UserError
from sidecar.follow import Follower
from sidecar.journal_format import WrongFormat
from sidecar.store import SUFFIX, RunEntry, Store

log = logging.getLogger(__name__)
RUNS_MAX = 64
SUFFIXES = (SUFFIX, *exports.SUFFIXES)
WRITE_ONLY = (".csv",)
"""What `sidecar export` writes and nothing here reads back: in a table of text, a word may be a number or a text."""
CHECKLIST = (
    "was the run recorded? `sidecar runs` lists every run and its project",
    "are metrics logged (loss, accuracy ...)? `sidecar status` shows the last ones",
    "is the project's name the one given to sidecar.init(project=...)?",
    "is this the right data directory? --dir PATH or SIDECAR_DIR",
)
"""What to check when nothing is shown."""


def load_runs(
    directory: Path | None, *, projects: Iterable[str] = (), runs: Iterable[str] = (), paths: Iterable[Path] = (),
    also: Iterable[str] = (), now_ns: int | None = None,
) -> list[RunData]:
    """``also``: further metrics to keep a line of. Raises UserError (exit code 3) when there is nothing to show."""
    wanted, now = tuple(also), time.time_ns() if now_ns is None else now_ns
    found: list[RunData] = []
    for path in paths:
        found += _from_path(path, wanted, now)
    projects, words = tuple(projects), tuple(runs)
    in_files = {run.project for run in found}
    if found and projects:
        found = [run for run in found if run.project in projects or not run.project]
    if directory is not None and (projects or words or not tuple(paths)):
        for entry in _entries(Store(directory), projects, words, in_files):
            try:
                loaded = _journal(entry.path, entry.run_id, wanted, now)
            except UserError as error:
                log.warning("passed over: %s", error.cause)
                continue
            if loaded is not None:
                found.append(loaded)
    found = _distinct(run for run in found if run.rows_total)
    if not found:
        remedy = "record a run first: sidecar run -- python train.py"
        raise UserError("no run to draw: nothing was recorded yet", remedy, Exit.NO_DATA, checks=CHECKLIST)
    found = sorted(found, key=lambda run: (run.started_ns, run.run_id))[-RUNS_MAX:]
    tell_apart(found)
    return found


def _from_path(path: Path, also: tuple[str, ...], now_ns: int) -> list[RunData]:
    """A file, or those of a folder that can be read. Raises UserError when none can."""
    found: list[RunData] = []
    refused: list[UserError] = []
    for file in _files(path):
        try:
            found.append(load_file(file, also, now_ns))
        except UserError as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    for damaged in refused:
        log.warning("passed over: %s", damaged.cause)
    return found


def load_each(
    directory: Path, words: Iterable[str], also: Iterable[str] = (), now_ns: int | None = None
) -> list[RunData]:
    """The named runs (ids, names, "latest", or files) in the order named. Raises UserError (exit code 3)."""
    wanted, now = tuple(also), time.time_ns() if now_ns is None else now_ns
    store, out = Store(directory), []
    for word in words:
        path = Path(word)
        if path.suffix in (*SUFFIXES, *WRITE_ONLY) and path.exists():
            out.append(load_file(path, wanted, now))
            continue
        entry = _entries(store, (), (word,))[0]
        loaded = _journal(entry.path, entry.run_id, wanted, now)
        if loaded is None or not loaded.rows_total:
            raise UserError(f"the journal of {word!r} has nothing in it, or is damaged",
                            "`sidecar runs` lists the others", Exit.NO_DATA)
        out.append(loaded)
    tell_apart(out)
    return out


def load_file(path: Path, also: Iterable[str] = (), now_ns: int = 0) -> RunData:
    """One journal or export. Raises UserError when it is neither."""
    if path.suffix in WRITE_ONLY:
        raise UserError(f"{path}: CSV cannot be read back", "export the run as JSON lines or Parquet instead: "
                        "sidecar export RUN --format parquet -o run.parquet", Exit.NO_DATA)
    if path.suffix == SUFFIX:
        loaded = _journal(path, _run_id(path), tuple(also), now_ns)
        if loaded is None:
            raise UserError(f"{path} is no journal, or damaged", "sidecar runs lists what can be read", Exit.NO_DATA)
        return loaded
    return exports.load_export(path, tuple(also), now_ns)


def _distinct(runs: Iterable[RunData]) -> list[RunData]:
    """A run that lies there twice (a journal and its export, an export in two formats) counts once: the fuller one."""
    best: dict[str, RunData] = {}
    for run in runs:
        known = best.get(run.run_id)
        if known is None or _fullness(run) > _fullness(known):
            best[run.run_id] = run
    return list(best.values())


def _fullness(run: RunData) -> tuple[bool, bool, int]:
    return run.source.endswith(SUFFIX), not run.exported_only, run.rows_total


def _files(path: Path) -> list[Path]:
    if path.is_dir() and path.suffix != ".parquet":
        inner = path / "runs"
        return sorted(p for p in (inner if inner.is_dir() else path).iterdir() if p.suffix in SUFFIXES)
    if not path.exists():
        raise UserError(f"there is no {path}", "name a journal, an export (.jsonl, .parquet) or a folder of them",
                        Exit.NO_DATA)
    return [path]


def _entries(
    store: Store, projects: tuple[str, ...], words: tuple[str, ...], in_files: Iterable[str] = ()
) -> list[RunEntry]:
    """``in_files``: the projects of runs that were read from files; "" of one whose project nobody knows."""
    everything = store.runs()
    chosen = [run for run in everything if run.project in projects]
    known = sorted({run.project for run in everything if run.project} | set(filter(None, in_files)))
    missing = [project for project in projects if project not in known]
    if missing and "" not in in_files:
        none = f"there is none in {store.directory}: name another with --dir"
        listed = f"known projects: {', '.join(known[:12])}" if known else none
        raise UserError(f"unknown project {missing[0]!r}", listed, Exit.NO_DATA, checks=CHECKLIST)
    for word in words:
        entry = store.find(word)
        if entry is None:
            names = ", ".join(run.run_id for run in everything[:5])
            remedy = f"there are: {names}" if names else "name the directory the run was written to with --dir"
            raise UserError(f"no run {word!r} in {store.directory}", remedy, Exit.NO_DATA)
        chosen.append(entry)
    if not projects and not words:
        chosen = everything
    return list({entry.run_id: entry for entry in chosen}.values())[:RUNS_MAX]


def _run_id(path: Path) -> str:
    with contextlib.suppress(sqlite3.Error, msgspec.MsgspecError), contextlib.closing(Follower(path, "")) as follower:
        hellos = follower.reader.hellos()
        if hellos:
            return hellos[0].run_id
    return path.stem


def _journal(path: Path, run_id: str, also: tuple[str, ...], now_ns: int) -> RunData | None:
    collector = Collector(run_id, also)
    try:
        with contextlib.closing(Follower(path, run_id, from_checkpoint=False)) as follower:
            last = follower.reader.last_row()
            removed_step = max((rank.reached for rank in follower.projector.state.ranks.values()), default=-1)
            collector.run.removed_rows = follower.number
            captured = follower.projector.info().captured is not None
            for record, rows in follower.read(last):
                collector.feed(record, rows, captured=captured)
            collector.run.damaged_rows = follower.reader.damaged_rows
            run = collector.finish(follower.projector, snapshot(follower.projector.state, now_ns=now_ns))
    except WrongFormat as error:
        raise UserError(str(error), error.remedy, Exit.NO_DATA) from None
    except (sqlite3.Error, msgspec.MsgspecError):
        return None
    if run.damaged_rows:
        log.warning("%s: %s", path, damaged_text(run.damaged_rows))
    run.source = path.name
    run.removed_step = removed_step if run.removed_rows and removed_step >= 0 else None
    return run
