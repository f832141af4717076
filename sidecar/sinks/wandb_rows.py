"""Rows as wandb takes them: one dictionary per global step, each with its axes. Pure.

Given: rows and the number of the first. Hands on: (wandb ``_step``, payload) pairs, ``_step`` growing.
Never: imports wandb before a histogram or a text, which only pass by the owner's word, needs one of its types.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sidecar.rows import Row
from sidecar.sinks.base import FILE

STEP = "train/global_step"
TOKENS = "train/num_input_tokens_seen"
ELAPSED = "progress/elapsed_seconds"
AXES = (STEP, TOKENS, ELAPSED)

MERGED_KINDS = frozenset({"step", "derived"})


OWN = frozenset({"_step", "_timestamp", "_runtime", "_wandb"})
"""What wandb itself puts into a row, a captured script's too."""
REFUSED_MAX = 5
BINS_MAX = 512
"""wandb refuses a histogram with more."""


def is_refused(name: str) -> bool:
    """wandb drops an empty name, and keeps those that begin with an underscore to itself, without a word."""
    return not name or name.startswith("_")


def is_axis_value(value: object) -> bool:
    """A script may log anything under the name of an axis; what is no number would break the axis for every row."""
    return type(value) in (int, float) and value == value


def as_payloads(
    rows: Sequence[Row], number: int, refused: set[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of one step that follow one another become one payload under the last one's number.

    The last one's, so that the far end's last ``_step`` plus one is the first row it lacks. Names that wandb refuses
    are left out; some of them are added to ``refused``.
    """
    payload: dict[str, Any] = {}
    merging: int | None = None
    at = number
    for index, row in enumerate(rows, number):
        metrics = _metrics(row, refused)
        if not metrics:
            continue
        joins = row.kind in MERGED_KINDS and row.step is not None and row.step == merging
        if payload and not joins:
            yield at, payload
            payload = {}
        at = index
        payload.update(metrics)
        payload["_timestamp"] = row.time
        if row.step is not None:
            payload[STEP] = row.step
        merging = row.step if row.kind in MERGED_KINDS else None
        if merging is None:
            yield at, payload
            payload = {}
    if payload:
        yield at, payload


def _metrics(row: Row, refused: set[str] | None) -> dict[str, Any]:
    """Unknown values are absent."""
    kept: dict[str, Any] = {
        name: value for name, value in row.metrics.items() if value is not None and not is_refused(name)
    }
    if refused is not None and len(kept) < len(row.metrics) and len(refused) < REFUSED_MAX:
        refused.update(name for name in row.metrics if is_refused(name) and name not in OWN)
    if row.kind == "checkpoint":
        kept.pop(FILE, None)
    if row.kind == "histogram":
        return {name: _histogram(value) for name, value in kept.items() if value["counts"]}
    if row.kind == "text":
        return {name: _table(row.step, value) for name, value in kept.items()}
    return kept


def _histogram(value: Any) -> Any:
    import wandb

    counts, edges = value["counts"], value["edges"]
    width = -(-len(counts) // BINS_MAX)  # Neighbours that become one bin.
    if width > 1:
        counts = [sum(counts[at : at + width]) for at in range(0, len(counts), width)]
        edges = [*edges[:-1:width], edges[-1]]
    return wandb.Histogram(np_histogram=(counts, edges))


def _table(step: int | None, text: Any) -> Any:
    import wandb

    return wandb.Table(columns=["step", "text"], data=[[step, text]])
