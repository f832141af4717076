"""What integrations say of their use: nobody is told."""

import contextlib
from collections.abc import Iterator
from typing import Any


class _Anything:
    def __getattr__(self, name: str) -> "_Anything":
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        pass


TelemetryRecord = _Anything


@contextlib.contextmanager
def context(run: Any = None, obj: Any = None) -> Iterator[Any]:
    yield _Anything()
