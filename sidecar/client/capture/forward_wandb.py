"""``--capture wandb+``: real wandb does its work, and every row also arrives here.

Given: the real package, just imported. Hands on: its rows, configuration and summary to a recorder.
Never: changes what real wandb does, or raises into it.
"""

import functools
import os
import sys
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
    _call_after(run_class, "_on_start", _started)
    for name, forward in FORWARDED.items():
        _forward_after(run_class, name, forward)
    for label in ("name", "notes", "tags"):
        _forward_setting(run_class, label)


def _forward_after(run_class: Any, name: str, forward: Callable[..., None]) -> None:
    """Calls ``forward`` with the recorder after each call of the method; not for a run that is disabled."""

    def take(run: Any, *args: Any, **kwargs: Any) -> None:
        recorder = _recorders.get(id(run))
        if recorder is not None:
            forward(run, recorder, *args, **kwargs)

    _call_after(run_class, name, take)


def _call_after(run_class: Any, name: str, take: Callable[..., None]) -> None:
    original = getattr(run_class, name)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        try:
            take(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # Real wandb has done its part; what failed here is counted.
            recorder = _recorders.get(id(self))
            if recorder is None:
                print(f"sidecar: this run is not captured: {error!r}", file=sys.stderr)
            else:
                values.count(recorder.run.rejected, f"forward_{type(error).__name__}")
        return result

    setattr(run_class, name, call)


def _forward_setting(run_class: Any, label: str) -> None:
    original = getattr(run_class, label)

    def put(self: Any, value: Any) -> None:
        original.__set__(self, value)
        recorder = _recorders.get(id(self))
        if recorder is not None:
            recorder.rename(**{label: [str(tag) for tag in value] if label == "tags" else str(value)})

    setattr(run_class, label, property(original.fget, put, doc=original.__doc__))


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


def _logged(run: Any, recorder: Recorder, data: Any, step: Any = None, commit: Any = None) -> None:
    recorder.log(data, step, commit)


def _config_changed(run: Any, recorder: Recorder, key: Any = None, val: Any = None, data: Any = None) -> None:
    if isinstance(data, dict):
        recorder.run.config({name: value for name, value in data.items() if name != "_wandb"})
    elif isinstance(key, str) and key != "_wandb":
        recorder.run.config({key: val})


def _defined(run: Any, recorder: Recorder, name: str, step_metric: Any = None, step_sync: Any = None,
             hidden: Any = None, summary: Any = None, overwrite: Any = None) -> None:  # fmt: skip
    step_metric = getattr(step_metric, "name", step_metric)
    synced = step_sync if step_sync is not None else step_metric is not None
    operations = frozenset(item.lower() for item in summary.split(",")) if summary else frozenset()
    recorder.definitions.define(name, Definition(step_metric, bool(synced), operations), bool(overwrite))


def _summary_changed(run: Any, recorder: Recorder, record: Any) -> None:
    changes = {item.key[0]: item.value for item in record.update if len(item.key) == 1}
    if changes:
        recorder.summarise(changes)
    for item in record.remove:
        if len(item.key) == 1:
            recorder.forget(item.key[0])


def _finished(run: Any, recorder: Recorder, exit_code: int | None = None) -> None:
    del _recorders[id(run)]
    recorder.finish(exit_code)


FORWARDED: dict[str, Callable[..., None]] = {
    "_log": _logged,
    "_config_callback": _config_changed,
    "_define_metric": _defined,
    "_summary_update_callback": _summary_changed,
    "_finish": _finished,
}
"""Method of wandb's Run -> the function that forwards each call of it to the recorder."""
