"""From whatever a training loop holds to what the wire carries, without ever raising or synchronising a device.

Given: Python numbers, numpy scalars and arrays, tensors, strings, lists, maps. Hands on: wire values.
Never: imports numpy or torch (an object that comes from them brings its own methods), or waits for a device.
"""

import os
from collections.abc import Mapping
from typing import Any

from sidecar.wire import NAME_BYTES_MAX, STEP_MAX, Metrics

ARRAY_ITEMS_MAX = 512
PATH_BYTES_MAX = 4096
INT64 = range(-(2**63), 2**63)


class Unsupported(TypeError):
    """This value has no form on the wire; ``reason`` names the counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def plain(value: Any) -> Any:
    """The wire value of an object that the encoder does not know. Raises Unsupported."""
    if is_on_device(value):
        raise Unsupported("device_tensor")  # Reading it now would wait for the device.
    try:
        value = whole(value)
        size = getattr(value, "size", 1)
        items = value.numel() if hasattr(value, "numel") else size
        if items == 1 and hasattr(value, "item"):
            return value.item()
        if hasattr(value, "tolist") and items <= ARRAY_ITEMS_MAX:
            return value.tolist()
        return float(value)
    except Unsupported:
        raise
    except Exception as error:  # noqa: BLE001 - Foreign code: any of its methods may raise anything.
        raise Unsupported("unsupported_type") from error


def is_on_device(value: Any) -> bool:
    """Is it a tensor that a device may still be computing? Asks for an attribute only."""
    try:
        return getattr(value, "is_cpu", True) is False
    except Exception:  # noqa: BLE001 - Foreign code, see plain().
        return False


def whole(tensor: Any) -> Any:
    """A tensor spread over ranks (DTensor) as what this rank has of it. Raises Unsupported where that is only a part:
    asking the others would hang where they do not ask too."""
    placements = getattr(tensor, "placements", None)
    if placements is None or not hasattr(tensor, "to_local"):
        return tensor
    if not all(placement.is_replicate() for placement in placements):
        raise Unsupported("partial_tensor")
    return tensor.to_local()


def metrics(values: dict[Any, Any], rejected: dict[str, int]) -> Metrics:
    """The part of ``values`` that the wire can carry; what it cannot is counted in ``rejected`` by reason."""
    kept: Metrics = {}
    for name, value in list(values.items()):
        try:
            if not isinstance(name, str):
                raise Unsupported("name_not_string")
            name.encode()
            kept[str(name)] = _value(value, depth=0)
        except Unsupported as error:
            count(rejected, error.reason)
        except UnicodeError:
            count(rejected, "text_not_unicode")
        except Exception:  # noqa: BLE001 - Foreign code: even asking for a class may raise. The others are still taken.
            count(rejected, "unsupported_type")
    return kept


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if int(value) in INT64:
            return int(value)
        return float(value) if abs(value) < 1e308 else _reject("integer_too_large")
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        value.encode()
        return str(value)
    if depth > 8:
        return _reject("nested_too_deep")
    if isinstance(value, list | tuple):
        return [_value(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(key): _value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview | set | frozenset):
        return _reject("unsupported_type")
    return _value(plain(value), depth + 1)


def wire_map(given: Mapping[str, Any] | None, rejected: dict[str, int] | None = None) -> dict[str, Any]:
    """A map that surely fits the wire: what has no form there is kept as its text, bounded."""
    result: dict[str, Any] = {}
    for key, value in dict(given or {}).items():
        kept = metrics({str(key): value}, {} if rejected is None else rejected)
        result[str(key)] = kept[str(key)] if kept else str(value)[:1000]
    return result


def step_number(step: Any) -> int | None:
    """The step as an int, None when it is not a whole number from 0 to 2**53."""
    if type(step) is int:
        return step if 0 <= step <= STEP_MAX else None
    try:
        if isinstance(step, bool) or is_on_device(step):
            return None
        number = int(step)
        return number if number == step and 0 <= number <= STEP_MAX else None
    except Exception:  # noqa: BLE001 - Foreign code, see plain().
        return None


def label(name: Any) -> str:
    """A name as text that fits the wire, whatever was passed."""
    try:
        text = name if type(name) is str else str(name)
        return text.encode(errors="replace")[:NAME_BYTES_MAX].decode(errors="ignore")
    except Exception:  # noqa: BLE001 - Foreign code, see plain().
        return "unnamed"


def path(given: Any) -> str:
    """A place as an absolute path, whatever stands for it; a URL as it is; nothing for None or what is too long."""
    text = "" if given is None else os.fsdecode(given)
    text = text if "://" in text or not text else os.path.abspath(text)
    return text if len(text.encode(errors="replace")) <= PATH_BYTES_MAX else ""


def count(counters: dict[str, int], reason: str, amount: int = 1) -> None:
    counters[reason] = counters.get(reason, 0) + amount


def _reject(reason: str) -> Any:
    raise Unsupported(reason)
