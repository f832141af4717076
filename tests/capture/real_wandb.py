# ruff: noqa: E501 - scripts and tables read better on one line
"""What real wandb stored for a script, read from its .wandb files: rows by the path under which it keeps each value,
configuration, summary, and what the run is called."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.capture.conftest import execute
from tests.sinks import wandb_file

INTERNAL = ("_runtime", "_timestamp", "_step")


class Stored(NamedTuple):
    step: int
    values: dict[str, Any]


class StoredRun(NamedTuple):
    rows: list[Stored]
    config: dict[str, Any]
    summary: dict[str, Any]
    labels: dict[str, Any]
    """project, name, group, tags, notes"""


def rows_of(script: str, folder: Path, code: int | None = 0) -> tuple[list[list[Stored]], str]:
    """(rows of each run in order of their beginning, what the script printed)."""
    runs, printed = runs_of(script, folder, code)
    return [run.rows for run in runs], printed


def runs_of(script: str, folder: Path, code: int | None = 0, **environ: str) -> tuple[list[StoredRun], str]:
    """(each run in order of their beginning, what the script printed)."""
    folder.mkdir()
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder), **environ}
    done = execute(script, folder, "", settings, code)
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=_began)
    return [StoredRun(_rows(path), _config(path), _summary(path), _labels(path)) for path in files], done.stdout


def _began(path: Path) -> float:
    for record in wandb_file.read(path).records:
        if record.WhichOneof("record_type") == "run":
            return record.run.start_time.ToNanoseconds()
    return 0.0


def _rows(path: Path) -> list[Stored]:
    found = []
    for record in wandb_file.read(path).records:
        if record.WhichOneof("record_type") != "history":
            continue
        values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        found.append(Stored(values["_step"], {key: value for key, value in values.items() if key not in INTERNAL}))
    return found


def _config(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for record in wandb_file.read(path).records:
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            _apply(tree, record.run.config if kind == "run" else record.config)
    tree.pop("_wandb", None)
    return tree


def _summary(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for record in wandb_file.read(path).records:
        if record.WhichOneof("record_type") == "summary":
            _apply(tree, record.summary)
    return {name: value for name, value in tree.items() if name not in (*INTERNAL, "_wandb")}


def _labels(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in wandb_file.read(path).records:
        if record.WhichOneof("record_type") == "run":
            run = record.run
            found |= {"project": run.project, "name": run.display_name or None, "group": run.run_group or None,
                      "tags": list(run.tags), "notes": run.notes or None}  # fmt: skip
    return found


def _apply(tree: dict[str, Any], changes: Any) -> None:
    """Updates and removals, each by a key or by a way through nested maps."""
    for item in changes.update:
        *way, last = [item.key] if item.key else item.nested_key
        at = tree
        for key in way:
            at[key] = at[key] if isinstance(at.get(key), dict) else {}
            at = at[key]
        at[last] = json.loads(item.value_json)
    for item in changes.remove:
        tree.pop(item.key, None)
