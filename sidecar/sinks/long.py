"""The long table that CSV and Parquet share: one line for each value, because new names may come at any time.

Given: a value. Hands on: the columns' names, and the value as text where it is no number. Never: does I/O.
"""

import math
from typing import Any

import msgspec

COLUMNS = ("number", "time", "step", "rank", "kind", "name", "value", "text")
"""Ordinal of the row in the run, seconds since the epoch, ..., the value as a double, or else as text."""

encode = msgspec.json.Encoder().encode


def text_of(value: Any) -> str | None:
    """Structures as JSON; None for None."""
    return value if isinstance(value, str) or value is None else encode(finite_or_word(value)).decode()


def finite_or_word(value: Any) -> Any:
    """JSON has no NaN: the export's words stand for them, inside lists and maps too."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [finite_or_word(item) for item in value]
    if isinstance(value, dict):
        return {key: finite_or_word(item) for key, item in value.items()}
    return value
