"""``--capture swanlab+``: real swanlab does its work, and every row also arrives here.

Given: the real package, just imported. Hands on: its rows and configuration. Never: changes what real swanlab does.
"""

import functools
from typing import Any

from sidecar.client import values
from sidecar.client.capture.begin import begin
from sidecar.client.capture.swanlab_rows import SwanlabRows

_rows: dict[int, SwanlabRows] = {}
"""By the identity of swanlab's own run object."""
_configured: dict[int, dict[str, Any]] = {}
"""The configuration that was reported last, by the same key."""


def install(swanlab: Any) -> None:
    _after_log(swanlab.Run)
    original_init, original_finish = swanlab.init, swanlab.Run.finish

    @functools.wraps(original_init)
    def init(*args: Any, **kwargs: Any) -> Any:
        found = original_init(*args, **kwargs)
        if id(found) not in _rows:
            config = kwargs.get("config")
            run = begin(
                "swanlab",
                project=kwargs.get("project"),
                name=kwargs.get("name") or kwargs.get("experiment_name"),
                config=config if isinstance(config, dict) else None,
            )
            _rows[id(found)] = SwanlabRows(run)
            _configured[id(found)] = _configuration(found)
        return found

    @functools.wraps(original_finish)
    def finish(self: Any, *args: Any, **kwargs: Any) -> Any:
        _reconfigure(self)
        result = original_finish(self, *args, **kwargs)
        rows = _rows.pop(id(self), None)
        _configured.pop(id(self), None)
        if rows is not None:
            rows.run.finish()
        return result

    swanlab.init, swanlab.Run.finish = init, finish


def _configuration(found: Any) -> dict[str, Any]:
    try:
        return {str(key): found.config[key] for key in found.config}
    except Exception:  # noqa: BLE001  # Foreign code; without it the run keeps what init was given.
        return {}


def _reconfigure(found: Any) -> None:
    """Report changes of the configuration. swanlab has no hook for them, so it is compared after each log."""
    rows, known = _rows.get(id(found)), _configured.get(id(found), {})
    now = _configuration(found)
    if rows is not None and now != known:
        rows.run.config({key: value for key, value in now.items() if key not in known or known[key] != value})
        _configured[id(found)] = now


def _after_log(run_class: Any) -> None:
    original = run_class.log

    @functools.wraps(original)
    def log(self: Any, data: Any, step: int | None = None, *args: Any, **kwargs: Any) -> Any:
        result = original(self, data, step, *args, **kwargs)
        rows = _rows.get(id(self))
        if rows is not None:
            try:
                rows.log(data, step)
                _reconfigure(self)
            except Exception as error:  # noqa: BLE001  # Real swanlab has done its part; what failed here is counted.
                values.count(rows.run.rejected, f"forward_{type(error).__name__}")
        return result

    run_class.log = log
