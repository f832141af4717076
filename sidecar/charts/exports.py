"""Runs from exported files: JSON lines, Parquet as `sidecar export` writes it, Parquet parts as the sink writes them.

Given: a path. Hands on: one RunData. Its rows become events again, so that what the sidecar computes is computed once
more where the export leaves it out; project, stage and configuration come from the facts that go with the file, and
where there are none, from what the rows and the file's name tell.
Never: holds an export in memory, or trusts a row: what `sidecar export` cannot have written is skipped.
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec

from sidecar import aliases, export_format, wire
from sidecar.charts.data import Collector, RunData
from sidecar.derive.snapshot import snapshot
from sidecar.errors import Exit, UserError
from sidecar.export_format import FIXED_COLUMNS, metric_of
from sidecar.journal_reader import Record
from sidecar.rows import Projector, Row

SUFFIXES = (".jsonl", ".parquet")
BATCH_ROWS = 2048
HEAD_ROWS = 256
TIME_MAX_SECONDS = 32_503_680_000.0
"""The year 3000."""
LONG = {"number", "time", "step", "rank", "kind", "name", "value", "text"}
COMPUTED = ("derived", "hardware")
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def load_export(path: Path, also: tuple[str, ...] = (), now_ns: int = 0) -> RunData:
    """Raises UserError (exit code 3) when there is no row of ours in it, or it cannot be read."""
    try:
        known = export_format.read(path)
        rows = _jsonl(path) if path.suffix == ".jsonl" else _parquet(path, known)
        head = list(islice(rows, HEAD_ROWS))
        reader = _Reader(path, known, also, _captured(head))
        for row in chain(head, rows):
            reader.take(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}", "check the path and its permissions",
                        Exit.NO_DATA) from None
    return reader.finish(now_ns)


def _captured(head: list[Row]) -> bool:
    """A captured script has no steps of its own: its rows with a training loss are its steps."""
    return not any(row.kind == "step" for row in head) and any(
        row.kind == "log" and any(aliases.canonical(name) == "train/loss" for name in row.metrics) for row in head)


class _Reader:
    """Rows of one export, in order, folded once more."""

    def __init__(self, path: Path, known: export_format.RunFacts | None, also: tuple[str, ...], captured: bool) -> None:
        self._path, self._known, self._captured = path, known, captured
        self._collector = Collector(known.run_id if known else path.stem, also)
        self._projector: Projector | None = None
        self._derived = False
        self._first_ns = self._last_ns = 0
        self._number = 0

    def take(self, row: Row) -> None:
        if not abs(row.time) <= TIME_MAX_SECONDS:  # NaN too: not written by `sidecar export`.
            return
        now = int(row.time * 1e9)
        if self._projector is None:
            self._projector = Projector(row.run)
            self._collector.run.run_id, self._first_ns = row.run, now
        self._last_ns = max(self._last_ns, now)
        if row.kind in COMPUTED:
            self._derived = True
            self._collector.row(row)
            return
        self._greet(self._projector, row.rank, now)
        event = _event(row, now, self._mono(now))
        if event is not None:
            self._feed(self._projector, row.rank, row.seq, event)

    def finish(self, now_ns: int) -> RunData:
        projector, known = self._projector, self._known
        if projector is None:
            raise UserError(f"there is no row in {self._path}", "export it again: sidecar export RUN -o FILE",
                            Exit.NO_DATA)
        if known and known.state in ("finished", "failed"):
            for rank in list(projector.state.ranks):
                end = wire.Finished(self._last_ns, self._mono(self._last_ns), known.state)
                self._feed(projector, rank, 1 << 62, end)
        run = self._collector.finish(projector, snapshot(projector.state, now_ns=self._last_ns or now_ns))
        run.source, run.exported_only, run.name = self._path.name, not self._derived, run.name or self._path.stem
        run.state = (known.state if known else None) or run.state
        run.stage = run.stage or _stage_in(self._path.stem)
        return run

    def _feed(self, projector: Projector, rank: int, seq: int, event: wire.AnyEvent) -> None:
        self._number += 1
        record = Record(self._number, rank, rank + 1, seq, self._last_ns, event)
        rows = projector.feed(record)
        self._collector.feed(record, [row for row in rows if row.kind != "derived" or not self._derived],
                             captured=self._captured)

    def _greet(self, projector: Projector, rank: int, now: int) -> None:
        if rank in projector.state.ranks:
            return
        known = self._known or export_format.RunFacts(run_id=projector.state.run_id)
        projector.greet(wire.Hello(
            run_id=projector.state.run_id, rank=rank, session=rank + 1, time_ns=now, mono_ns=self._mono(now),
            project=known.project, name=known.name, stage=known.stage, group=known.group, tags=known.tags,
            notes=known.notes, config=known.config, model_facts=known.model_facts, total_steps=known.total_steps,
            world_size=known.world_size, captured="export" if self._captured else None,
        ), now)  # fmt: skip

    def _mono(self, now: int) -> int:
        return max(0, now - self._first_ns)


def _stage_in(stem: str) -> str | None:
    """d12-sft -> sft: the last word of a file's name that is a stage."""
    words = (aliases.stage_of(word) for word in reversed(re.split(r"[-_. ]+", stem)))
    return next((stage for stage in words if stage in aliases.STAGES), None)


def _event(row: Row, now: int, mono: int) -> wire.AnyEvent | None:
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
                continue  # A line still being written, or not one of ours.
            row.metrics = {name: _WORDS.get(v, v) if isinstance(v, str) and row.kind != "text" else v
                           for name, v in row.metrics.items()}
            yield row


def _parquet(path: Path, known: export_format.RunFacts | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run_id = known.run_id if known else path.stem
    for part in sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]:
        try:
            with pq.ParquetFile(part) as file:
                names = set(file.schema_arrow.names)
                batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=BATCH_ROWS))
                if names.issuperset(FIXED_COLUMNS):
                    yield from _wide(batches)
                elif names >= LONG:
                    yield from _long(batches, run_id)
                else:
                    raise UserError(f"{part} was not written by `sidecar export`",
                                    "export it again with --format parquet", Exit.NO_DATA)
        except pa.ArrowException:
            raise UserError(f"{part} is no Parquet file, or damaged", "export it again with --format parquet",
                            Exit.NO_DATA) from None


def _wide(batches: Iterable[list[dict[str, Any]]]) -> Iterator[Row]:
    """A column for each metric."""
    for batch in batches:
        for cells in batch:
            if cells["rank"] is None or cells["seq"] is None or cells["time"] is None:
                continue
            metrics = {metric_of(k): v for k, v in cells.items() if v is not None and k not in FIXED_COLUMNS}
            yield Row(cells["run"] or "", cells["rank"], cells["seq"], cells["step"], cells["time"],
                      cells["kind"] or "", metrics)


def _long(batches: Iterable[list[dict[str, Any]]], run_id: str) -> Iterator[Row]:
    """A line for each value; lines of one number are one row."""
    row: Row | None = None
    for batch in batches:
        for line in batch:
            if line["rank"] is None or line["time"] is None or line["name"] is None:
                continue
            if row is None or row.seq != line["number"]:
                if row is not None:
                    yield row
                row = Row(run_id, line["rank"], line["number"], line["step"], line["time"], line["kind"] or "", {})
            row.metrics[line["name"]] = line["value"] if line["value"] is not None else line["text"]
    if row is not None:
        yield row
