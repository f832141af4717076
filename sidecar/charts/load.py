"""Runs for the charts: from a data directory, from a folder of journals, or from exported JSON lines and Parquet.

Given: where to look and what for. Hands on: one RunData per run, oldest first, each file read once from end to end.
Never: writes, holds a run in memory, or fails because one file of many is damaged or still being written.
"""

import contextlib
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar import wire
from sidecar.charts.data import Collector, RunData
from sidecar.derive.snapshot import snapshot
from sidecar.errors import Exit, UserError
from sidecar.follow import Follower
from sidecar.journal import Record
from sidecar.rows import Projector, Row
from sidecar.store import SUFFIX, RunEntry, Store

RUNS_MAX = 64
SUFFIXES = (SUFFIX, ".jsonl", ".parquet")
CHECKLIST = (
    "was the run recorded? `sidecar runs` lists every run and its project",
    "is the project's name the one given to sidecar.init(project=...)?",
    "is this the right data directory? --dir PATH or SIDECAR_DIR",
)
"""The document's own list for "no data shown"."""

_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def load_runs(
    directory: Path | None, *, projects: Iterable[str] = (), runs: Iterable[str] = (), paths: Iterable[Path] = (),
    also: Iterable[str] = (), now_ns: int | None = None,
) -> list[RunData]:
    """``also``: further metrics to keep a line of. Raises UserError (exit code 3) when there is nothing to show."""
    wanted, now = tuple(also), time.time_ns() if now_ns is None else now_ns
    found: list[RunData] = []
    for path in paths:
        found += [load_file(file, wanted, now) for file in _files(path)]
    projects, words = tuple(projects), tuple(runs)
    if found and projects:
        found = [run for run in found if run.project in projects]
    if directory is not None and (projects or words or not tuple(paths)):
        for entry in _entries(Store(directory), projects, words, bool(found)):
            loaded = _journal(entry.path, entry.run_id, wanted, now)
            if loaded is not None:
                found.append(loaded)
    found = [run for run in found if run.rows_total]
    if not found:
        raise UserError("no run to draw: nothing was recorded yet", "; ".join(CHECKLIST), Exit.NO_DATA)
    return sorted(found, key=lambda run: (run.started_ns, run.run_id))[-RUNS_MAX:]


def load_each(
    directory: Path, words: Iterable[str], also: Iterable[str] = (), now_ns: int | None = None
) -> list[RunData]:
    """The named runs (ids, names, "latest", or files) in the order named. Raises UserError (exit code 3)."""
    wanted, now = tuple(also), time.time_ns() if now_ns is None else now_ns
    store, out = Store(directory), []
    for word in words:
        path = Path(word)
        if path.suffix in SUFFIXES and path.is_file():
            out.append(load_file(path, wanted, now))
            continue
        entry = _entries(store, (), (word,), False)[0]
        loaded = _journal(entry.path, entry.run_id, wanted, now)
        if loaded is None or not loaded.rows_total:
            raise UserError(f"the journal of {word!r} has nothing in it, or is damaged",
                            "`sidecar runs` lists the others", Exit.NO_DATA)
        out.append(loaded)
    return out


def load_file(path: Path, also: Iterable[str] = (), now_ns: int = 0) -> RunData:
    """One journal or export. Raises UserError when it is neither."""
    if path.suffix == SUFFIX:
        loaded = _journal(path, _run_id(path), tuple(also), now_ns)
        if loaded is None:
            raise UserError(f"{path} is no journal, or damaged", "sidecar runs lists what can be read", Exit.NO_DATA)
        return loaded
    return _exported(path, tuple(also), now_ns)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inner = path / "runs"
        return sorted(p for p in (inner if inner.is_dir() else path).iterdir() if p.suffix in SUFFIXES)
    if not path.is_file():
        raise UserError(f"there is no {path}", "name a journal, an export (.jsonl, .parquet) or a folder of them",
                        Exit.NO_DATA)
    return [path]


def _entries(store: Store, projects: tuple[str, ...], words: tuple[str, ...], have: bool) -> list[RunEntry]:
    everything = store.runs()
    chosen = [run for run in everything if run.project in projects]
    known = sorted({run.project for run in everything if run.project})
    missing = [project for project in projects if project not in known]
    if missing and not have:
        listed = f"known projects: {', '.join(known[:12])}" if known else f"no project in {store.directory}"
        raise UserError(f"unknown project {missing[0]!r}", f"{listed}; {'; '.join(CHECKLIST)}", Exit.NO_DATA)
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
            captured = follower.projector.info().captured is not None
            for record, rows in follower.read(last):
                collector.feed(record, rows, captured=captured)
            run = collector.finish(follower.projector, snapshot(follower.projector.state, now_ns=now_ns))
    except (sqlite3.Error, msgspec.MsgspecError):
        return None
    run.source = path.name
    return run


def _exported(path: Path, also: tuple[str, ...], now_ns: int) -> RunData:
    """An export becomes events again, so that what the sidecar computes is computed once more where it is missing."""
    projector: Projector | None = None
    collector = Collector(path.stem, also)
    derived = False
    last_ns = 0
    first_ns = 0
    rows = _jsonl(path) if path.suffix == ".jsonl" else _parquet(path)
    for number, row in enumerate(rows):
        if projector is None:
            projector = Projector(row.run)
            collector.run.run_id, first_ns = row.run, int(row.time * 1e9)
        last_ns = max(last_ns, int(row.time * 1e9))
        if row.kind in ("derived", "hardware"):
            derived = True
            collector.row(row)
            continue
        _greet(projector, row, first_ns)
        event = _event(row, first_ns)
        if event is not None:
            made = projector.feed(Record(number + 1, row.rank, row.rank + 1, row.seq, last_ns, event))
            kept = [one for one in made if one.kind != "derived" or not derived]
            collector.feed(Record(number + 1, row.rank, row.rank + 1, row.seq, last_ns, event), kept, captured=False)
    if projector is None:
        raise UserError(f"there is no row in {path}", "export it again: sidecar export RUN -o FILE", Exit.NO_DATA)
    run = collector.finish(projector, snapshot(projector.state, now_ns=last_ns or now_ns))
    run.source, run.exported_only, run.name = path.name, not derived, run.name or path.stem
    return run


def _greet(projector: Projector, row: Row, first_ns: int) -> None:
    if row.rank not in projector.state.ranks:
        now = int(row.time * 1e9)
        mono = max(0, now - first_ns)
        hello = wire.Hello(run_id=row.run, rank=row.rank, session=row.rank + 1, time_ns=now, mono_ns=mono, project="")
        projector.greet(hello, now)


def _event(row: Row, first_ns: int) -> wire.AnyEvent | None:
    now = int(row.time * 1e9)
    mono = max(0, now - first_ns)
    if row.kind == "step" and row.step is not None:
        return wire.Step(now, mono, row.step, row.metrics)
    if row.kind in ("log", "late"):
        return wire.Log(now, mono, row.step, row.metrics, row.kind == "late")
    if row.kind == "text":
        name, text = next(iter(row.metrics.items()), ("", ""))
        return wire.Text(now, mono, row.step, name, str(text))
    if row.kind == "phase":
        name, seconds = next(iter(row.metrics.items()), ("", 0.0))
        return wire.PhaseExited(now, mono, row.step, name.removeprefix("phase/"), _number(seconds))
    if row.kind == "checkpoint":
        return wire.Checkpoint(now, mono, row.step, None, None, str(row.metrics.get("checkpoint/name") or ""))
    if row.kind == "dataset":
        return wire.Consumed(now, mono, row.step, _datasets(row.metrics))
    return None


def _datasets(metrics: dict[str, Any]) -> dict[str, tuple[int, int]]:
    names = {name[8:].rpartition("/")[0] for name in metrics if name.startswith("dataset/")}
    return {name: (int(_number(metrics.get(f"dataset/{name}/samples"))),
                   int(_number(metrics.get(f"dataset/{name}/tokens")))) for name in names if name}


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and value - value == 0 else 0.0


def _jsonl(path: Path) -> Iterator[Row]:
    decode = msgspec.json.Decoder(Row).decode
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = decode(line)
            except msgspec.MsgspecError:
                continue  # A line still being written, or none of ours.
            row.metrics = {name: _WORDS.get(v, v) if isinstance(v, str) and row.kind != "text" else v
                           for name, v in row.metrics.items()}
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    fixed = {"run", "rank", "seq", "step", "time", "kind"}
    with pq.ParquetFile(path) as file:
        if not fixed <= set(file.schema_arrow.names):
            raise UserError(f"{path} was not written by `sidecar export`", "export it again with --format parquet")
        for batch in file.iter_batches(batch_size=2048):
            for cells in batch.to_pylist():
                metrics = {k: v for k, v in cells.items() if v is not None and k not in fixed}
                yield Row(cells["run"] or "", cells["rank"], cells["seq"], cells["step"], cells["time"],
                          cells["kind"] or "", metrics)
