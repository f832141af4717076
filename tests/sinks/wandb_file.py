"""An independent reader of W&B's transaction log, for tests: LevelDB blocks by hand, wandb's own protobufs inside.

It shares no code with sidecar.sinks.wandb_log, so that one's mistake does not hide the other's.
"""

import json
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto import wandb_internal_pb2 as pb


class WandbFile(NamedTuple):
    records: list[Any]
    history: list[dict[str, Any]]
    """One dictionary per row, in file order; NaN and Infinity as floats."""
    config: dict[str, Any]
    run: Any
    metrics: dict[str, str]
    """define_metric: name or glob -> its step metric."""
    exit_codes: list[int]


def find(data_dir: Path, run_id: str) -> list[Path]:
    return sorted(Path(data_dir, "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb"))


def read_all(data_dir: Path, run_id: str) -> list[WandbFile]:
    return [read(path) for path in find(data_dir, run_id)]


def read(path: Path) -> WandbFile:
    file = WandbFile([], [], {}, pb.RunRecord(), {}, [])
    for raw in raw_records(path.read_bytes()):
        record = pb.Record()
        record.ParseFromString(raw)
        file.records.append(record)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            file.history.append({_name(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "run":
            file.run.CopyFrom(record.run)
            file.config.update({_name(item): json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "config":
            file.config.update({_name(item): json.loads(item.value_json) for item in record.config.update})
        elif kind == "metric":
            file.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "exit":
            file.exit_codes.append(record.exit.exit_code)
    file.config.pop("_wandb", None)
    return file


def raw_records(data: bytes) -> list[bytes]:
    assert data[:4] == b":W&B", "not a W&B transaction log"
    found, pending, at = [], b"", 7
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        crc, size, kind = struct.unpack("<IHB", data[at : at + 7])
        body = data[at + 7 : at + 7 + size]
        if len(body) < size or zlib.crc32(bytes([kind]) + body) != crc:
            break
        at += 7 + size
        pending = body if kind in (1, 2) else pending + body
        if kind in (1, 4):
            found.append(pending)
    return found


def _name(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
