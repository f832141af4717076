"""Media objects in a logged row: kept as a histogram or a text, or only counted.

Given: a row with objects in it. Hands on: the row in plain values, and separately what becomes an event of its own.
Never: keeps pictures, sound or video; imports a library that draws or plots.

Objects are recognised by their class: the stand-ins' and real wandb's, swanlab's, matplotlib's, plotly's, pandas'.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sidecar.client.capture.plain import SIMPLE, Bins, key_text, plain, whole
from sidecar.client.values import is_on_device

TEXT_CHARS_MAX = 200_000
TEXT_NAMES = ("text_data", "content", "text")
LIBRARIES = ("wandb", "swanlab", "trackio")
DRAWN = ("matplotlib", "plotly", "PIL", "moviepy", "bokeh", "seaborn", "altair")


class NotKept:
    """Placeholder for an object that is not kept, only counted."""


class SplitRow(NamedTuple):
    row: dict[str, Any]
    separate: list[tuple[str, Any]]
    """(name, Bins | str | NotKept)"""
    nested: bool


def split_row(data: Mapping[Any, Any]) -> SplitRow:
    """Raises TypeError for a value that wandb's encoder refuses."""
    separate: list[tuple[str, Any]] = []
    row = _map(data, "", separate)
    row.pop("_step", None)
    row.pop("_runtime", None)
    row.pop("", None)
    return SplitRow(row, separate, any(type(value) is dict for value in row.values()))


def _map(data: Mapping[Any, Any], prefix: str, separate: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in list(data.items()):
        name = name if type(name) is str else _name(name)
        if type(value) in SIMPLE:
            row[name] = value if type(value) is not int else whole(value)
            continue
        if is_on_device(value) and value.numel() == 1:
            # The value is sent when the device has computed it; until then the script may overwrite its tensor.
            row[name] = value.detach().clone()
            continue
        found = special(value)
        if found is None:
            if type(value) is dict and value.get("_type") != "histogram":
                row[name] = _map(value, f"{prefix}{name}.", separate)
                continue
            found = [plain(value)]
            if isinstance(value, dict):
                bins = _bins(found[0])
                found = [bins] if bins is not None else found
            if not isinstance(found[0], Bins):
                row[name] = found[0]
                continue
        for item in found:
            separate.append((prefix + name, item))
    return row


def _name(key: Any) -> str:
    try:
        return key_text(key)
    except TypeError:
        return str(key)


def special(value: Any) -> list[Any] | None:
    """The object as Bins, text or NotKept, several for a list of them; None for an ordinary value."""
    if isinstance(value, list | tuple) and value and all(_is_special(item) for item in value):
        return [_kept(item) for item in value]
    return [_kept(value)] if _is_special(value) else None


def _is_special(value: Any) -> bool:
    module = type(value).__module__ or ""
    top = module.partition(".")[0]
    if top in LIBRARIES:
        return hasattr(value, "_log_type") or hasattr(value, "to_json") or hasattr(value, "transform")
    return top in DRAWN or (top == "pandas" and hasattr(value, "columns"))


def _kept(value: Any) -> Any:
    name = type(value).__name__
    try:
        if hasattr(value, "histogram") and hasattr(value, "bins"):
            return Bins([float(edge) for edge in value.bins], [float(count) for count in value.histogram])
        if name == "Html":
            return str(value.html if isinstance(getattr(value, "html", None), str) else value)[:TEXT_CHARS_MAX]
        if name == "Text":
            return str(
                next((found for name in TEXT_NAMES if (found := getattr(value, name, None)) is not None), value)
            )[:TEXT_CHARS_MAX]
        if hasattr(value, "columns") and (hasattr(value, "data") or hasattr(value, "itertuples")):
            return _table(value)
    except Exception:  # noqa: BLE001  # The properties of foreign objects may raise anything.
        return NotKept()
    return NotKept()


def _table(table: Any) -> str:
    """Tab-separated lines, the first with the columns' names."""
    rows = table.itertuples(index=False) if hasattr(table, "itertuples") else table.data
    lines = ["\t".join(_cell(column) for column in table.columns)]
    size = len(lines[0])
    for row in rows:
        lines.append("\t".join(_cell(cell) for cell in row))
        size += len(lines[-1])
        if size > TEXT_CHARS_MAX:
            lines.append("...")
            break
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if _is_special(value):
        return f"<{type(value).__name__}>"
    return str(value).replace("\t", " ").replace("\n", "\\n")


def _bins(value: Any) -> Bins | None:
    """{"_type": "histogram", "values": [...], "bins": [...]}, as wandb writes its histograms."""
    counts, edges = value.get("values"), value.get("bins")
    if value.get("_type") != "histogram" or not isinstance(counts, list) or not isinstance(edges, list):
        return None
    return Bins(edges, counts) if len(edges) == len(counts) + 1 else None
