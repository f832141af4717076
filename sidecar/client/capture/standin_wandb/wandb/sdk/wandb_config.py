"""The configuration of a run: keys once set do not change unless that is allowed.

Given: updates of a script. Hands on: each accepted change, to the run. Never: keeps anything but plain values.
"""

import dataclasses
import enum
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

from sidecar.client.capture.plain import ARRAY_ITEMS_MAX, key_text, whole

from . import wandb_helper
from .lib import config_util

FLOAT_WHOLE_MAX = 1e21  # From here on numbers are written with an exponent, and come back as floats.


class Config:
    """``config.lr``, ``config["lr"]``, ``update``, ``setdefaults``: see wandb's own documentation."""

    def __init__(self) -> None:
        object.__setattr__(self, "_items", {"_wandb": {}})
        object.__setattr__(self, "_locked", {})
        object.__setattr__(self, "_callback", None)
        defaults = config_util.dict_from_config_file("config-defaults.yaml") if os.getcwd() else None
        if defaults is not None:
            self.update(defaults)

    def _set_callback(self, callback: Callable[[dict[str, Any]], None]) -> None:
        object.__setattr__(self, "_callback", callback)

    def __repr__(self) -> str:
        return str(dict(self))

    def keys(self) -> list[str]:
        return [key for key in self._items if not key.startswith("_")]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, value) for key, value in self._items.items() if not key.startswith("_")]

    def _as_dict(self) -> dict[str, Any]:
        return self._items

    def as_dict(self) -> dict[str, Any]:
        return dict(self)

    def get(self, *args: Any) -> Any:
        return self._items.get(*args)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self._locked:
            return
        key, value = self._sanitize(key, value)
        self._items[key] = value
        self._changed({key: value})

    __setattr__ = __setitem__

    def __getattr__(self, key: str) -> Any:
        try:
            return self._items[key] if key != "_items" else object.__getattribute__(self, key)
        except KeyError as error:
            raise AttributeError(f"{self.__class__!r} object has no attribute {key!r}") from error

    def _update(
        self, d: Any, allow_val_change: bool | None = None, ignore_locked: bool | None = None
    ) -> dict[str, Any]:
        parsed = wandb_helper.parse_config(d)
        sanitized = dict(
            self._sanitize(key, value, allow_val_change)
            for key, value in parsed.items() if key not in self._locked
        )  # fmt: skip
        self._items.update(sanitized)
        return sanitized

    def update(self, d: Any, allow_val_change: bool | None = None) -> None:
        """Raises ConfigError when a key would change its value and ``allow_val_change`` is not set."""
        self._changed(self._update(d, allow_val_change))

    def setdefaults(self, d: Any) -> None:
        missing = {key: value for key, value in wandb_helper.parse_config(d).items() if key not in self._items}
        self._changed(self._update(missing))

    def update_locked(self, d: dict[str, Any], user: Any = None, _allow_val_change: bool | None = None) -> None:
        for key, value in d.items():
            key, value = self._sanitize(key, value, _allow_val_change)
            self._locked[key] = user
            self._items[key] = value
        self._changed(d)

    merge_locked = update_locked

    def persist(self) -> None:
        self._changed(self._items)

    def _changed(self, changes: dict[str, Any]) -> None:
        if self._callback is not None and changes:
            self._callback({key: value for key, value in changes.items() if key != "_wandb"})

    def _sanitize(self, key: str, value: Any, allow_val_change: bool | None = None) -> tuple[str, Any]:
        if hasattr(value, "_log_type"):
            raise TypeError("WBValue objects cannot be added to the run config")
        key = key.strip("-")
        value = friendly(value)
        if not allow_val_change and key in self._items and value != self._items[key]:
            raise config_util.ConfigError(
                f'Attempted to change value of key "{key}" from {self._items[key]} to {value}\n'
                "If you really want to do this, pass allow_val_change=True to config.update()"
            )
        return key, value


class ConfigStatic:
    """A read-only copy."""

    def __init__(self, config: Any) -> None:
        object.__setattr__(self, "__dict__", dict(config))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Error: run.config_static is a readonly object")

    __setitem__ = __setattr__

    def keys(self) -> Any:
        return self.__dict__.keys()

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[key]

    def __str__(self) -> str:
        return str(self.__dict__)


def friendly(value: Any) -> Any:
    """A value as wandb's configuration keeps it: plain types inside maps and lists, anything else as its text."""
    if isinstance(value, dict):
        return {key: friendly(item) for key, item in value.items()}
    if isinstance(value, slice):
        return {"slice_start": value.start, "slice_step": value.step, "slice_stop": value.stop}
    value = _converted(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [friendly(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return friendly(dataclasses.asdict(value))
    if type(value).__module__ != "builtins":
        return str(value)
    return value


def _converted(value: Any) -> Any:
    if hasattr(value, "detach") and hasattr(value, "numel"):
        value = value.detach()
        return value.item() if value.dim() == 0 or value.numel() == 1 else value.cpu().numpy().tolist()
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        size = getattr(value, "size", 1)
        value = value.item() if size == 1 else value.tolist() if size <= ARRAY_ITEMS_MAX else str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date):
        return value.isoformat()
    if callable(value):
        named = hasattr(value, "__qualname__") and hasattr(value, "__module__")
        return f"{value.__module__}.{value.__qualname__}" if named else str(value)
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, complex):
        return str(value).strip("()")
    return tuple(value) if isinstance(value, set | frozenset) else value


def as_stored(value: Any) -> Any:
    """A value as it comes back from wandb's service, which ``init`` sends the configuration to: JSON has one type of
    number, and a whole one comes back as int."""
    if isinstance(value, dict):
        return {key_text(key): as_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_stored(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < FLOAT_WHOLE_MAX:
        return int(value)
    return whole(value) if type(value) is int else value
