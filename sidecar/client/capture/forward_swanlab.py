"""``--capture swanlab+``: real swanlab does its work, and every row also arrives here.

Given: the real package, just imported. Hands on: its rows and configuration. Never: changes what real swanlab does.
"""

import functools
from typing import Any

from sidecar.client import run as client
from sidecar.client import values
from sidecar.client.capture.begin import begin

_runs: dict[int, client.Run] = {}
"""By the identity of swanlab's own run object."""


def install(swanlab: Any) -> None:
    _after_log(swanlab.Run)
    original_init, original_finish = swanlab.init, swanlab.Run.finish

    @functools.wraps(original_init)
    def init(*args: Any, **kwargs: Any) -> Any:
        found = original_init(*args, **kwargs)
        if id(found) not in _runs:
            config = kwargs.get("config")
            _runs[id(found)] = begin(
                "swanlab",
                project=kwargs.get("project"),
                name=kwargs.get("name") or kwargs.get("experiment_name"),
                config=config if isinstance(config, dict) else None,
            )
        return found

    @functools.wraps(original_finish)
    def finish(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original_finish(self, *args, **kwargs)
        run = _runs.pop(id(self), None)
        if run is not None:
            run.finish()
        return result

    swanlab.init, swanlab.Run.finish = init, finish


def _after_log(run_class: Any) -> None:
    original = run_class.log

    @functools.wraps(original)
    def log(self: Any, data: Any, step: int | None = None, *args: Any, **kwargs: Any) -> Any:
        result = original(self, data, step, *args, **kwargs)
        run = _runs.get(id(self))
        if run is not None:
            try:
                run.log(data, step=step)
            except Exception as error:  # noqa: BLE001  # Real swanlab has done its part; what failed here is counted.
                values.count(run.rejected, f"forward_{type(error).__name__}")
        return result

    run_class.log = log
