"""`sidecar privacy audit RUN`: reads again what was written for W&B, and says what it finds.

Given: a data directory and a run. Hands on: counts of what left, and findings; none means it holds metrics only.
Never: trusts the gate that let it out: the rules here are applied to the bytes in W&B's own file.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import GENERIC_NAMES, Gate, Identity, Manifest
from sidecar.sinks.wandb_account import run_id as wandb_run_id
from sidecar.sinks.wandb_log import records

RECORDS = frozenset({"header", "run", "telemetry", "metric", "summary", "history", "exit", "config", "final", "footer"})
"""Kinds of record a run of numbers consists of. Not among them: files, artifacts, output, stats, requests, alerts."""
FILES = frozenset({"config.yaml", "wandb-summary.json"})
OWN_KEYS = frozenset({"_wandb", "_runtime", "_step", "_timestamp"})
ALERT = "alert"
MEDIA_RECORDS = frozenset({"files", "artifact", "request"})
"""What tables of text and histograms bring along."""
MEDIA_TYPES = {"histogram": "histograms", "table-file": "text"}
FINDINGS_MAX = 200


class Audit(msgspec.Struct):
    run_id: str
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


def audit(data_dir: Path, run_id: str, identity: Identity, wandb_dir: Path | None = None) -> Audit:
    """Raises ImportError without wandb, OSError when a file cannot be read."""
    report = Audit(run_id, manifests=_manifests(data_dir, run_id))
    allow = {word for manifest in report.manifests if manifest.sink == "wandb" for word in manifest.allow}
    word = wandb_run_id(run_id)
    for path in sorted((wandb_dir or data_dir).glob(f"**/wandb/*run-*-{word}/run-{word}.wandb")):
        report.files.append(str(path))
        _read(path, report, Gate(run_id, "audit", allow, identity=identity), identity, frozenset(allow))
    report.config_keys = sorted(set(report.config_keys))
    return report


def _manifests(data_dir: Path, run_id: str) -> list[Manifest]:
    try:
        content = (data_dir / "egress" / f"{file_stem(run_id)}.json").read_bytes()
        return msgspec.json.decode(content, type=list[Manifest])
    except (OSError, msgspec.DecodeError):
        return []


def _read(path: Path, report: Audit, gate: Gate, identity: Identity, allow: frozenset[str]) -> None:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    found = {f"{path.name}: an uploaded file named {file.name}" for file in _uploads(path, allow)}
    for raw in records(path):
        record = messages.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind not in RECORDS and not (kind in MEDIA_RECORDS and allow) and not (kind == ALERT and "alerts" in allow):
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
    report.findings = sorted({*report.findings, *found})[:FINDINGS_MAX]


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
