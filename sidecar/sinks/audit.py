"""`sidecar privacy audit RUN`: checks every outlet that the run had; says what can be certified and what cannot.

Given: a data directory and a run. Hands on: for each outlet what could be read again, counts of what left, and
findings; none means that what left holds metrics only, and that nothing on disk holds a key or names anybody.
Never: trusts the gate that let W&B's rows out: the rules here are applied to the bytes in W&B's own file. Where an
outlet keeps no copy (OTLP, a third party's) there is only the gate's count, and the report says so.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar.sinks import egress, registry
from sidecar.sinks.base import Sink
from sidecar.sinks.cursors import Cursors
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import GENERIC_NAMES, Gate, Identity, Manifest
from sidecar.sinks.secrecy import has_known_prefix
from sidecar.sinks.wandb_account import run_id as wandb_run_id
from sidecar.sinks.wandb_log import records

RECORDS = frozenset({"header", "run", "telemetry", "metric", "summary", "history", "exit", "config", "final", "footer"})
"""Kinds of record a run of numbers consists of. Not among them: files, artifacts, output, stats, requests, alerts."""
FILES = frozenset({"config.yaml", "wandb-summary.json"})
OWN_KEYS = frozenset({"_wandb", "_runtime", "_step", "_timestamp"})
ALERT = "alert"
MEDIA_RECORDS = frozenset({"files", "artifact", "request"})
"""What tables of text, histograms and checkpoint files bring along."""
KIND_WORDS = {"text": "text", "histogram": "histograms", "artifact": "artifacts"}
"""Kind of row -> the word without which none may leave."""
SCAN_BYTES_MAX = 256 << 20
CHUNK, OVERLAP = 1 << 20, 512
MEDIA_TYPES = {"histogram": "histograms", "table-file": "text"}
MEDIA_WORDS = frozenset({"text", "histograms", "artifacts"})
FINDINGS_MAX = 200


class Outlet(msgspec.Struct):
    sink: str
    leaves_machine: bool
    looked_at: str
    """What was read, or why nothing could be; one line."""


class Audit(msgspec.Struct):
    run_id: str
    outlets: list[Outlet] = []
    """Every one that the run was ever bound to."""
    files: list[str] = []
    """W&B logs that were read."""
    rows: int = 0
    values: int = 0
    config_keys: list[str] = []
    manifests: list[Manifest] = []
    findings: list[str] = []
    """What should not be there, one line each, without the value itself."""

    @property
    def clean(self) -> bool:
        return not self.findings


def audit(
    data_dir: Path, run_id: str, identity: Identity, wandb_dir: Path | None = None, tensorboard_dir: Path | None = None
) -> Audit:
    """Raises ImportError without wandb, or without pyarrow where there is Parquet; OSError when a file cannot be read.
    """
    report = Audit(run_id, manifests=egress.read(data_dir, run_id))
    _wandb(report, data_dir, identity, wandb_dir)
    local = {
        "tensorboard": (tensorboard_dir or data_dir / "tensorboard") / file_stem(run_id),
        "files": data_dir / "files",
    }
    for sink in sorted({*_bound(data_dir, run_id), *(manifest.sink for manifest in report.manifests)}):
        if sink == "wandb":
            looked_at = f"{len(report.files)} logs read again, {report.rows} rows, {report.values} values"
            report.outlets.append(Outlet(sink, True, looked_at))
        elif _leaves(sink):
            report.outlets.append(Outlet(sink, True, _counted(report, sink)))
        else:
            report.outlets.append(Outlet(sink, False, _stayed(report, sink, local.get(sink, local["files"]), identity)))
    report.findings = sorted(set(report.findings))[:FINDINGS_MAX]
    return report


def _wandb(report: Audit, data_dir: Path, identity: Identity, wandb_dir: Path | None) -> None:
    run_id = report.run_id
    allow = {word for manifest in report.manifests if manifest.sink == "wandb" for word in manifest.allow}
    word = wandb_run_id(run_id)
    for path in sorted((wandb_dir or data_dir).glob(f"**/wandb/*run-*-{word}/run-{word}.wandb")):
        report.files.append(str(path))
        _read(path, report, Gate(run_id, "audit", allow, identity=identity), identity, frozenset(allow))
    report.config_keys = sorted(set(report.config_keys))


def _bound(data_dir: Path, run_id: str) -> list[str]:
    path = data_dir / "cursors.sqlite"
    if not path.exists():
        return []
    cursors = Cursors(path)
    try:
        return sorted(cursors.of_run(run_id))
    finally:
        cursors.close()


def _leaves(sink: str) -> bool:
    """Does it send rows off this machine? A sink that is no longer installed is assumed to."""
    try:
        kind: type[Sink] = registry.load(sink)
    except registry.UnknownSink:
        return True
    except registry.SinkNotInstalled:
        return sink not in ("parquet", "tensorboard")
    return getattr(kind, "leaves_machine", True)


def _counted(report: Audit, sink: str) -> str:
    """For an outlet that keeps no copy: do the gate's counts agree with what was allowed?"""
    manifest = next((manifest for manifest in report.manifests if manifest.sink == sink), None)
    if manifest is None:
        report.findings.append(f"{sink}: nothing says what was sent: there is no count in egress/")
        return "keeps no copy, and was not counted: cannot be certified"
    for kind, word in KIND_WORDS.items():
        if manifest.sent.get(kind) and word not in manifest.allow:
            report.findings.append(f"{sink}: {manifest.sent[kind]} {kind} were sent without the word {word}")
    return "keeps no copy that could be read again: certified by the gate's count alone"


def _stayed(report: Audit, sink: str, place: Path, identity: Identity) -> str:
    """Texts and settings may be in what stays here; keys, and names of this user or machine, need not be."""
    if not place.exists():
        return "stays on this machine; nothing of it is here any more"
    stem = file_stem(report.run_id)
    patterns = {"tensorboard": "**/*.tfevents.*", "parquet": f"{stem}.parquet/*.parquet"}
    found = sorted(path for path in place.glob(patterns.get(sink, f"{stem}.{sink}*")) if path.is_file())
    for path in found:
        report.findings += [f"{path.name}: {reason}" for reason in _scan(path, identity)]
    return f"stays on this machine; {len(found)} files searched for keys and for names of this user and machine"


def _scan(path: Path, identity: Identity) -> set[str]:
    reasons, before, left = set(), "", SCAN_BYTES_MAX
    for chunk in _parquet_chunks(path) if path.suffix == ".parquet" else _chunks(path):
        text, left = before + chunk, left - len(chunk)
        low = text.lower()
        reasons |= {"names this user or machine" for word in identity.words if _names(word, low)}
        if has_known_prefix(text):
            reasons.add("holds what looks like a key")
        before = text[-OVERLAP:]
        if left <= 0:
            break
    return reasons


def _chunks(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk.decode("utf-8", errors="replace")


def _parquet_chunks(path: Path) -> Iterator[str]:
    """What is no number in its rows: compressed, they cannot be searched as they lie there."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["name", "text"]):
            for column in batch.columns:
                yield "\n".join(value for value in column.unique().to_pylist() if value is not None)


def _read(path: Path, report: Audit, gate: Gate, identity: Identity, allow: frozenset[str]) -> None:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    found = {f"{path.name}: an uploaded file named {file.name}" for file in _uploads(path, allow)}
    for raw in records(path):
        record = messages.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind not in RECORDS and not (kind in MEDIA_RECORDS and allow & MEDIA_WORDS) and not (
            kind == ALERT and "alerts" in allow
        ):
            found.add(f"{path.name}: a record of kind {kind}")
        elif kind == "history":
            report.rows += 1
            found |= {f"{path.name}: {reason}" for reason in _history(record.history.item, report, allow)}
        elif kind == "run":
            found |= {f"{path.name}: the run's {field} is set" for field in _machine_fields(record.run)}
        if kind in ("run", "config"):
            items = record.run.config.update if kind == "run" else record.config.update
            found |= {f"{path.name}: {reason}" for reason in _config(items, report, gate)}
        text = raw.decode("utf-8", errors="ignore").lower()
        found |= {f"{path.name}: names this user or machine" for name in identity.words if _names(name, text)}
    report.findings += sorted(found)


def _uploads(path: Path, allow: frozenset[str]) -> list[Path]:
    """Files that wandb would send along."""
    files = [file for file in (path.parent / "files").rglob("*") if file.is_file()]
    return [file for file in files if file.name not in FILES and not (allow and "media" in file.parts)]


def _history(items: Any, report: Audit, allow: frozenset[str]) -> list[str]:
    row: dict[str, Any] = {}
    for item in items:
        value = json.loads(item.value_json)
        if len(item.nested_key) > 1:  # A medium comes in pieces: sample/_type, sample/path, ...
            row.setdefault(item.nested_key[0], {})[item.nested_key[-1]] = value
        else:
            row[item.key or item.nested_key[0]] = value
    reasons = []
    for name, value in row.items():
        report.values += 1
        kind = value.get("_type", "") if isinstance(value, dict) else ""
        if not isinstance(value, bool | int | float) and MEDIA_TYPES.get(kind) not in allow:
            reasons.append(f"history {name} is no number")
    return reasons


def _config(items: Any, report: Audit, gate: Gate) -> list[str]:
    """Is every value one that the gate's rules would let out?"""
    reasons = []
    for item in items:
        name = item.key or "/".join(item.nested_key)
        if name in OWN_KEYS:
            continue
        report.config_keys.append(name)
        if not gate.config({name: json.loads(item.value_json)}):
            reasons.append(f"configuration {name} is neither a number nor a harmless word")
    return reasons


def _machine_fields(run: Any) -> list[str]:
    git = bool(run.git.remote_url or run.git.commit)
    return [name for name, is_set in (("host", bool(run.host)), ("git", git)) if is_set]


def _names(word: str, text: str) -> bool:
    return word.lower() in text and word.lower() not in GENERIC_NAMES
