"""One value for each metric of a run: by default the last one logged.

Given: the recorder's summary. Hands on: what the script writes into it itself. Never: holds values of its own.
"""

from collections.abc import Callable
from typing import Any


class SummaryDict:
    """Reads and writes by item and by attribute; maps inside come wrapped."""

    def __init__(
        self,
        items: Callable[[], dict[str, Any]],
        put: Callable[[dict[str, Any]], None],
        drop: Callable[[str], None] = lambda key: None,
    ) -> None:
        object.__setattr__(self, "_items", items)
        object.__setattr__(self, "_put", put)
        object.__setattr__(self, "_drop", drop)

    def _as_dict(self) -> dict[str, Any]:
        return self._items()

    def keys(self) -> list[str]:
        return [key for key in self._as_dict() if key != "_wandb"]

    def get(self, key: str, default: Any = None) -> Any:
        return self._as_dict().get(key, default)

    def __getitem__(self, key: str) -> Any:
        item = self._as_dict()[key]
        if not isinstance(item, dict):
            return item.item() if hasattr(item, "detach") else item  # Waits for the device.

        def put(changes: dict[str, Any]) -> None:
            self._put({key: {**item, **changes}})

        def drop(name: str) -> None:
            self._put({key: {given: value for given, value in item.items() if given != name}})

        return SummarySubDict(lambda: item, put, drop)

    __getattr__ = __getitem__

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    __setattr__ = __setitem__

    def __delitem__(self, key: str) -> None:
        self._drop(key)

    __delattr__ = __delitem__

    def update(self, d: dict[str, Any]) -> None:
        self._put(dict(d))


class Summary(SummaryDict):
    pass


class SummarySubDict(SummaryDict):
    pass
