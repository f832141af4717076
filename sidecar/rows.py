"""Rows: what every outlet receives, exactly as ``sidecar export`` prints it.

Given: journal records of one run, in order. Hands on: rows, in order, deterministically.
Never: reads a clock, does I/O, or depends on how records were batched: a late sink gets identical values.
"""

from typing import Any

import msgspec

from sidecar.wire import Value


class Row(msgspec.Struct):
    """One line of the export."""

    run: str
    rank: int
    seq: int
    step: int | None
    time: float
    """Wall clock of the emitting process, seconds since the epoch."""
    kind: str
    """step | log | late | text | histogram | phase | dataset | checkpoint | hardware | derived"""
    metrics: dict[str, Value]
    """Text rows: {name: text}. Histogram rows: {name: {"edges": [...], "counts": [...]}}."""


class RunInfo(msgspec.Struct):
    """What is known of a run as a whole, merged from the Hellos of its ranks."""

    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    group: str | None = None
    tags: list[str] = []
    notes: str | None = None
    entity: str | None = None
    config: dict[str, Any] = {}
    model_facts: dict[str, Any] = {}
    total_steps: int | None = None
    world_size: int = 1
    started_ns: int = 0
    launch_id: str = ""
    sinks: list[str] | None = None
    captured: str | None = None
    client: str = ""
    hosts: list[str] = []
