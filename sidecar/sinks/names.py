"""Further names for the same metrics, as other logging conventions spell them: `--names s1|s2|s3`. Pure.

Given: rows and a profile. Hands on: the same rows, in which a number may stand under further names.
Never: computes a number a second time, takes a canonical name away, or overrules what was sent under a spelling.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.rows import Row

PROFILES: dict[str, dict[str, tuple[str, ...]]] = {
    "s1": {},  # The canonical names alone.
    "s2": {
        "train/grad_norm": ("batch/grad_norm", "gradients/global_norm"),
        "train/global_step": ("progress/step",),
        "train/epoch": ("progress/epoch",),
        "train/eta_minutes": ("progress/eta_minutes",),
        "train/tokens_per_second": ("performance/tokens_per_second",),
        "train/samples_per_second": ("performance/samples_per_second",),
        "val/loss": ("eval/loss",),
        "val/perplexity": ("eval/perplexity",),
        "val/accuracy": ("eval/accuracy",),
    },
    "s3": {
        "train/learning_rate": ("train/lr",),
        "train/global_step": ("train/step",),
        "val/loss": ("val_loss",),
        "val/perplexity": ("val_perplexity", "val_ppl"),
        "val/accuracy": ("val_accuracy",),
    },
}
"""By profile: canonical name -> further names. s2 is the convention of scripts that group by ``batch/``,
``performance/`` and ``progress/``; s3 is that of scripts that log ``train/lr`` and ``val_loss``."""

NUMBERS = frozenset({"step", "log", "late", "derived"})
"""Kinds of row that hold named numbers."""


def spelled(rows: Sequence[Row], profile: str | None) -> list[Row]:
    """Raises KeyError for a profile that does not exist; None is the canonical one."""
    table = PROFILES[profile] if profile else {}
    return [_row(row, table) for row in rows] if table else list(rows)


def _row(row: Row, table: dict[str, tuple[str, ...]]) -> Row:
    if row.kind not in NUMBERS:
        return row
    further: dict[str, Any] = {}
    for name, value in row.metrics.items():
        for spelling in table.get(name, ()):
            if spelling not in row.metrics:
                further[spelling] = value
    return msgspec.structs.replace(row, metrics={**row.metrics, **further}) if further else row
