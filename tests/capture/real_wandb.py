# ruff: noqa: E501 - scripts and tables read better on one line
"""What real wandb stored for a script: rows read from its .wandb file, by the path under which it keeps each value."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.capture.conftest import execute
from tests.sinks import wandb_file

INTERNAL = ("_runtime", "_timestamp", "_step")


class Stored(NamedTuple):
    step: int
    values: dict[str, Any]


def rows_of(script: str, folder: Path, code: int | None = 0) -> tuple[list[list[Stored]], str]:
    """(rows of each run in order of their beginning, what the script printed)."""
    folder.mkdir()
    done = execute(script, folder, "", {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(folder)}, code)
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=_began)
    return [_rows(path) for path in files], done.stdout


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
