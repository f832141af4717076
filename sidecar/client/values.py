"""From whatever a training loop holds to what the wire carries, without ever raising or synchronising a device.

Given: Python numbers, numpy scalars and arrays, tensors, strings, lists, maps. Hands on: wire values.
Never: imports numpy or torch (an object that comes from them brings its own methods), or waits for a device.
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.wire import NAME_BYTES_MAX, PENDING, RECORD_BYTES_MAX, STEP_MAX, Metrics

ARRAY_ITEMS_MAX = 512
PATH_BYTES_MAX = 4096
MAP_BYTES_MAX = RECORD_BYTES_MAX - 4096  # A changed configuration is one record, with a little around it.
TEXT_OF_VALUE_CHARS_MAX = 1000
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
        value = unsharded(value)
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


def unsharded(tensor: Any) -> Any:
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
            if name == PENDING:
                raise Unsupported("reserved_name")
            name.encode()
            kept[str(name)] = _value(value, depth=0)
        except Unsupported as error:
            count(rejected, error.reason)
        except UnicodeError:
            count(rejected, "text_not_unicode")
        except Exception:  # noqa: BLE001 - Foreign code: even asking for a class may raise. The others are still taken.
            count(rejected, "unsupported_type")
    return kept


def metrics_and_device_scalars(values: Mapping[Any, Any], rejected: dict[str, int]) -> dict[str, Any]:
    """As :func:`metrics`, but tensors on a device stay as they are: the emitter copies them asynchronously."""
    given = dict(values)
    on_device = {name: value for name, value in given.items() if type(name) is str and is_on_device(value)}
    return metrics({name: value for name, value in given.items() if name not in on_device}, rejected) | on_device


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
        return {text(key): _value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview | set | frozenset):
        return _reject("unsupported_type")
    return _value(plain(value), depth + 1)


def wire_map(
    given: Mapping[str, Any] | None, rejected: dict[str, int] | None = None, *, bytes_max: int = MAP_BYTES_MAX
) -> dict[str, Any]:
    """A map that surely fits the wire. A value without a form there is kept as its text, of at most 1000 characters.

    Entries for which there is no room in ``bytes_max`` are left out and counted as "map_too_large": a Hello that does
    not fit one message would never reach the sidecar.
    """
    counters: dict[str, int] = {} if rejected is None else rejected
    result: dict[str, Any] = {}
    room_bytes = bytes_max
    for key, value in dict(given or {}).items():
        name = text(key)
        kept = metrics({name: value}, counters)
        entry = kept[name] if name in kept else text(value)[:TEXT_OF_VALUE_CHARS_MAX]
        size = len(msgspec.msgpack.encode((name, entry)))
        if size > room_bytes:
            count(counters, "map_too_large")
            continue
        room_bytes -= size
        result[name] = entry
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


def text(given: Any) -> str:
    """Any object as text that UTF-8 can carry: a lone surrogate (from undecodable bytes) becomes a question mark."""
    try:
        found = str(given)
    except Exception:  # noqa: BLE001 - Foreign code, see plain().
        return f"<{type(given).__name__}>"
    try:
        found.encode()
    except UnicodeEncodeError:
        return found.encode(errors="replace").decode()
    return found


def integer(given: Any) -> int:
    """A count. Raises Unsupported for what is on a device (reading it would wait) or does not fit 64 bits, and
    whatever ``int`` raises for what is no number."""
    if type(given) is not int and is_on_device(given):
        raise Unsupported("device_tensor")
    number = int(given)
    return number if number in INT64 else _reject("integer_too_large")


def label(name: Any) -> str:
    """A name as text that fits the wire, whatever was passed."""
    if type(name) is str and len(name) <= NAME_BYTES_MAX and name.isascii():  # Nearly always.
        return name
    try:
        found = name if type(name) is str else str(name)
        return found.encode(errors="replace")[:NAME_BYTES_MAX].decode(errors="ignore")
    except Exception:  # noqa: BLE001 - Foreign code, see plain().
        return "unnamed"


def path(given: Any) -> str:
    """A place as an absolute path, whatever stands for it; a URL as it is; nothing for None or what is too long."""
    place = "" if given is None else os.fsdecode(given)
    place = text(place if "://" in place or not place else os.path.abspath(place))
    return place if len(place.encode()) <= PATH_BYTES_MAX else ""


def count(counters: dict[str, int], reason: str, amount: int = 1) -> None:
    counters[reason] = counters.get(reason, 0) + amount


def _reject(reason: str) -> Any:
    raise Unsupported(reason)
