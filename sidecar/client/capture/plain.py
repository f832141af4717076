"""A logged value as wandb 0.31 would have written it to its file, in Python's own types.

Given: any object. Hands on: None, bool, int, float, str, list or dict, or TypeError in the words of wandb's encoder.
Never: imports numpy, torch or pandas: an object that comes from them brings its own methods.
"""

import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

SIMPLE = frozenset((float, int, bool, str, type(None)))
ARRAY_ITEMS_MAX = 32  # Beyond that wandb stores a histogram of 32 bins instead.


class Bins:
    """A distribution: what an array of more than 32 items, or a Histogram object, is stored as."""

    __slots__ = ("counts", "edges")

    def __init__(self, edges: list[float], counts: list[float]) -> None:
        self.edges, self.counts = edges, counts


def plain(value: Any) -> Any:
    """The value in plain types, Bins for large arrays. Raises TypeError (or UnicodeDecodeError for bytes)."""
    if type(value) in SIMPLE:
        return value if type(value) is not int else whole(value)
    if isinstance(value, dict):
        return {key_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_item(item) for item in value]
    if callable(getattr(value, "numel", None)) and hasattr(value, "detach"):
        return _tensor(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _array(value)
    return _other(value)


def whole(value: int) -> int | float:
    """An integer as wandb stores it: one that does not fit into 64 bits becomes a float."""
    if -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _item(value: Any) -> Any:
    found = plain(value)
    return {"_type": "histogram", "values": found.counts, "bins": found.edges} if isinstance(found, Bins) else found


def key_text(key: Any) -> str:
    """The string under which a key is stored. Raises TypeError for a key that JSON cannot have."""
    if isinstance(key, str):
        return key
    if hasattr(key, "dtype") and hasattr(key, "item"):
        key = key.item()
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int | float | str):
        return str(key)
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _tensor(tensor: Any) -> Any:
    tensor = tensor.detach()
    if tensor.numel() == 1:
        return plain(tensor.item())
    if tensor.numel() <= ARRAY_ITEMS_MAX:
        return tensor.tolist()
    return binned(tensor.float().flatten().tolist())


def _array(array: Any) -> Any:
    if not hasattr(array, "ndim") or (array.ndim == 0 and not hasattr(array, "ravel")):
        return _scalar(array.item())
    if array.size == 1:
        return _scalar(array.ravel()[0])
    if array.size <= ARRAY_ITEMS_MAX:
        return [plain(item) for item in array.tolist()]
    return binned([float(item) for item in array.ravel().tolist()])


def _scalar(value: Any) -> Any:
    """A numpy scalar or what its item() gave."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind == "M":
        return str(value)
    item = value.item() if hasattr(value, "item") else value
    return float(item) if kind == "f" and not isinstance(item, float) else plain(item)


def binned(numbers: list[float], bins: int = ARRAY_ITEMS_MAX) -> Bins:
    """``bins`` equal bins, as numpy.histogram makes them. Raises ValueError when a number is not finite."""
    if not numbers:
        low, high = 0.0, 1.0
    else:
        low, high = min(numbers), max(numbers)
    if not (low - low == 0 and high - high == 0 and all(n == n for n in numbers)):
        raise ValueError(f"autodetected range of [{low}, {high}] is not finite")
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bins
    edges = [low + width * i for i in range(bins)] + [high]
    counts = [0.0] * bins
    for number in numbers:
        index = min(bins - 1, int((number - low) / (high - low) * bins))
        if number < edges[index]:
            index -= 1
        elif index < bins - 1 and number >= edges[index + 1]:
            index += 1
        counts[index] += 1
    return Bins(edges, counts)


def _other(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum):
        return _builtin(value)
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode()
    if isinstance(value, decimal.Decimal | fractions.Fraction | pathlib.PurePath | uuid.UUID):
        return str(value)
    if isinstance(value, complex):
        return str(value).strip("()").replace("nan", "NaN")
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    if isinstance(value, set | frozenset | deque | Iterator):
        return [_item(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key_text(key): plain(item) for key, item in value.items()}
    if callable(value):
        named = hasattr(value, "__qualname__") and hasattr(value, "__module__")
        return f"{value.__module__}.{value.__qualname__}" if named else str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _builtin(value: Any) -> Any:
    """An instance of a subclass of a built-in type, as the built-in type."""
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return plain(base(value))
    return value


def _duration(value: datetime.timedelta) -> str:
    """ISO 8601, as pydantic writes it."""
    seconds = abs(value).total_seconds()
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    text = ("-" if value.days < 0 else "") + "P" + (f"{int(days)}D" if days else "")
    clock = (f"{int(hours)}H" if hours else "") + (f"{int(minutes)}M" if minutes else "")
    clock += f"{rest:g}S" if rest else ""
    return text + (f"T{clock}" if clock else "") if days or clock else "PT0S"
