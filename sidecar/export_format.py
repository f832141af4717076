"""What exported files have in common: their columns, and what they say of their run as a whole.

Given: what is known of a run, or the path of an export. Hands on: JSON, or the facts read back; names of columns.
Never: holds a secret of the configuration, or the name of a host; and adds no row to the export itself, whose rows
are those that were emitted.

The facts are project, name, stage, configuration and model facts. Parquet keeps them in the metadata of its schema
under ``sidecar.run``; beside JSON lines and CSV lies NAME.run.json.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sidecar.atomic_file import write_atomic
from sidecar.rows import RunInfo
from sidecar.sinks.secrecy import REDACTED, is_secret_key, looks_secret

FIXED_COLUMNS = ("run", "rank", "seq", "step", "time", "kind")
"""The columns of every row in CSV and Parquet; the others are metrics."""
METRIC_PREFIX = "metrics."
METADATA_KEY = b"sidecar.run"
SUFFIX = ".run.json"
DEPTH_MAX = 8


class RunFacts(msgspec.Struct, kw_only=True):
    """What a reader needs to know of the run that is not in the rows."""

    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    state: str | None = None
    """Of the run when this was written; None: not known."""
    group: str | None = None
    tags: list[str] = []
    notes: str | None = None
    config: dict[str, Any] = {}
    """As the trainer gave it, nested; secrets replaced."""
    model_facts: dict[str, Any] = {}
    total_steps: int | None = None
    world_size: int = 1
    started_ns: int = 0


_LIKE_FIXED = re.compile(rf"(metrics\.)*({'|'.join(FIXED_COLUMNS)})")


def column_of(metric: str) -> str:
    """The column of a metric: its name, unless a fixed column has it ("step" becomes "metrics.step")."""
    return METRIC_PREFIX + metric if _LIKE_FIXED.fullmatch(metric) else metric


def metric_of(column: str) -> str:
    """The opposite of column_of."""
    return column.removeprefix(METRIC_PREFIX) if _LIKE_FIXED.fullmatch(column) else column


def facts(info: RunInfo, state: str | None = None) -> RunFacts:
    return RunFacts(
        run_id=info.run_id, project=info.project, name=info.name, stage=info.stage, state=state or info.end,
        group=info.group, tags=list(info.tags), notes=info.notes, config=_clean(info.config),
        model_facts=_clean(info.model_facts), total_steps=info.total_steps, world_size=info.world_size,
        started_ns=info.started_ns,
    )  # fmt: skip


def encode(known: RunFacts) -> bytes:
    return msgspec.json.encode(known)


def beside(path: Path) -> Path:
    """Where the facts of a format without metadata are: beside d12.jsonl, in d12.run.json."""
    return path.with_suffix(SUFFIX)


def write(path: Path, known: RunFacts) -> None:
    """Atomic; readable by the owner only. Raises OSError."""
    write_atomic(path, msgspec.json.format(encode(known)), mode=0o600)


def read(path: Path) -> RunFacts | None:
    """The facts that belong to an export (.parquet: a file, or a folder of parts; else the file beside it).

    None when there are none, or they cannot be read: the rows can be used without them.
    """
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, ImportError):
        data = _parquet_metadata(path) if path.suffix == ".parquet" else beside(path).read_bytes()
        return msgspec.json.decode(data, type=RunFacts) if data else None
    return None


def _parquet_metadata(path: Path) -> bytes | None:
    import pyarrow.parquet as pq

    if path.is_dir():
        path = max(path.glob("part-*.parquet"))  # Raises ValueError when there is none. The last one knows most.
    found: bytes | None = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return found


def _clean(config: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    return {str(key): _clean_value(str(key), value, depth) for key, value in config.items()}


def _clean_value(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return REDACTED if is_secret_key(key) or looks_secret(value) else value
    if isinstance(value, Mapping):
        return _clean(value, depth + 1) if depth < DEPTH_MAX else {}
    if isinstance(value, list | tuple):
        return [_clean_value(key, item, depth + 1) for item in value] if depth < DEPTH_MAX else []
    return value
