"""``--capture wandb+``: real wandb does its work, and every row also arrives here.

Given: the real package, just imported. Hands on: its rows, configuration and summary to a recorder.
Never: changes what real wandb does, or raises into it.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from sidecar.client import values
from sidecar.client.capture.begin import begin
from sidecar.client.capture.definitions import Definition
from sidecar.client.capture.recorder import Recorder

_recorders: dict[int, Recorder] = {}
"""By the identity of wandb's own run object."""


def install(wandb: Any) -> None:
    run_class = wandb.sdk.wandb_run.Run
    _after(run_class, "_on_start", _started)
    _after(run_class, "_log", lambda run, data, step=None, commit=None: _of(run).log(data, step, commit))
    _after(run_class, "_config_callback", _config_changed)
    _after(run_class, "_define_metric", _defined)
    _after(run_class, "_summary_update_callback", _summary_changed)
    for label in ("name", "notes", "tags"):
        _after_setting(run_class, label)
    _after(run_class, "_finish", lambda run, exit_code=None: _recorders.pop(id(run)).finish(exit_code))


def _after(run_class: Any, name: str, take: Callable[..., None]) -> None:
    original = getattr(run_class, name)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        try:
            take(self, *args, **kwargs)
        except KeyError:
            pass  # A run we do not follow: disabled, or begun elsewhere.
        except Exception as error:  # noqa: BLE001  # Real wandb has done its part; what failed here is counted.
            recorder = _recorders.get(id(self))
            if recorder is not None:
                values.count(recorder.run.rejected, f"forward_{type(error).__name__}")
        return result

    setattr(run_class, name, call)


def _after_setting(run_class: Any, label: str) -> None:
    original = getattr(run_class, label)

    def put(self: Any, value: Any) -> None:
        original.__set__(self, value)
        recorder = _recorders.get(id(self))
        if recorder is not None:
            recorder.rename(**{label: [str(tag) for tag in value] if label == "tags" else str(value)})

    setattr(run_class, label, property(original.fget, put, doc=original.__doc__))


def _of(run: Any) -> Recorder:
    return _recorders[id(run)]


def _started(run: Any) -> None:
    settings = run._settings
    explicit = os.environ.get("WANDB_RUN_ID") or (run.id if getattr(settings, "resume", None) else None)
    client = begin(
        "wandb",
        project=settings.project,
        name=settings.run_name,
        run_id=explicit,
        config=dict(run.config),
        group=settings.run_group,
        tags=settings.run_tags or (),
        notes=settings.run_notes,
        entity=settings.entity,
    )
    _recorders[id(run)] = Recorder(client, run._starting_step)


def _config_changed(run: Any, key: Any = None, val: Any = None, data: Any = None) -> None:
    if isinstance(data, dict):
        _of(run).run.config({name: value for name, value in data.items() if name != "_wandb"})
    elif isinstance(key, str) and key != "_wandb":
        _of(run).run.config({key: val})


def _defined(run: Any, name: str, step_metric: Any = None, step_sync: Any = None, hidden: Any = None,
             summary: Any = None, overwrite: Any = None) -> None:  # fmt: skip
    step_metric = getattr(step_metric, "name", step_metric)
    synced = step_sync if step_sync is not None else step_metric is not None
    operations = frozenset(item.lower() for item in summary.split(",")) if summary else frozenset()
    _of(run).definitions.define(name, Definition(step_metric, bool(synced), operations), bool(overwrite))


def _summary_changed(run: Any, record: Any) -> None:
    changes = {item.key[0]: item.value for item in record.update if len(item.key) == 1}
    if changes:
        _of(run).summarise(changes)
    for item in record.remove:
        if len(item.key) == 1:
            _of(run).forget(item.key[0])
