"""SummaryWriter calls, of torch.utils.tensorboard and of tensorboardX, as rows.

Given: add_scalar, add_scalars, add_text, add_histogram. Hands on: a log row, text or histogram each, at its
global_step. Never: takes anything from the script's own event files: those are written as before.

All writers of a process are one run. The first one's tags keep their names; those of further writers, which
TensorBoard would show as runs of their own, are prefixed with the last part of their folder.
"""

import math
import os
import struct
import threading
from time import monotonic_ns, time_ns
from typing import Any

from sidecar import wire
from sidecar.client import start as client
from sidecar.client import values
from sidecar.client.capture import recorder
from sidecar.client.capture.begin import begin
from sidecar.client.capture.plain import Bins, plain

SINGLE_MAX = 3.4e38
WRAPPED = ("add_scalar", "add_scalars", "add_text", "add_histogram", "add_hparams")

_first_folder: str | None = None
"""Folder of the first writer that wrote anything: its tags get no prefix."""
_beginning = threading.Lock()
_thread = threading.local()


def install(module: Any) -> None:
    """``module`` has the class SummaryWriter, just imported."""
    writer = module.SummaryWriter
    for name in WRAPPED:
        if hasattr(writer, name) and not hasattr(getattr(writer, name), "__wrapped__"):
            setattr(writer, name, _wrapped(getattr(writer, name), globals()[f"_{name}"]))


def _wrapped(original: Any, take: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_thread, "inside", False):  # One method calls another: add_hparams writes scalars.
            return original(self, *args, **kwargs)
        _thread.inside = True
        try:
            result = original(self, *args, **kwargs)
        finally:
            _thread.inside = False
        _take(take, self, args, kwargs)
        return result

    call.__name__, call.__doc__, call.__wrapped__ = original.__name__, original.__doc__, original  # type: ignore[attr-defined]
    return call


def _take(take: Any, writer: Any, args: Any, kwargs: Any) -> None:
    follower = recorder.follower()
    run = client.current() if follower is None else follower.run
    try:
        if follower is not None and take in FOLLOWED:
            FOLLOWED[take](follower, _prefix(writer), *args, **kwargs)
            return
        if run is None:
            with _beginning:  # Of several threads that write their first value, one begins the run.
                run = client.current() or begin("tensorboard", name=os.path.basename(_folder(writer)) or None)
        take(run, _prefix(writer), *args, **kwargs)
    except Exception as error:  # noqa: BLE001  # The script's own call has succeeded; an error of ours is only counted.
        if run is not None:
            values.count(run.rejected, f"tensorboard_{type(error).__name__}")


def _folder(writer: Any) -> str:
    return os.path.normpath(str(getattr(writer, "log_dir", None) or getattr(writer, "logdir", None) or ""))


def _prefix(writer: Any) -> str:
    global _first_folder
    folder = _folder(writer)
    if _first_folder is None:
        _first_folder = folder
    return "" if folder == _first_folder else f"{os.path.basename(folder)}/"


def _at(step: Any, walltime: Any) -> tuple[int, int, int | None]:
    now_ns = int(walltime * 1e9) if isinstance(walltime, int | float) and walltime > 0 else time_ns()
    return now_ns, monotonic_ns(), None if step is None else values.step_number(step)


def _add_scalar(run: client.Run, prefix: str, tag: Any, scalar_value: Any, global_step: Any = None,
                walltime: Any = None, *_: Any, **__: Any) -> None:  # fmt: skip
    run._emit(wire.Log(*_at(global_step, walltime), {values.label(f"{prefix}{tag}"): plain(scalar_value)}))


def _add_scalars(run: client.Run, prefix: str, main_tag: Any, tag_scalar_dict: Any, global_step: Any = None,
                 walltime: Any = None, *_: Any, **__: Any) -> None:  # fmt: skip
    metrics = {values.label(f"{prefix}{main_tag}/{tag}"): plain(value) for tag, value in tag_scalar_dict.items()}
    run._emit(wire.Log(*_at(global_step, walltime), metrics))


def _add_text(run: client.Run, prefix: str, tag: Any, text_string: Any, global_step: Any = None,
              walltime: Any = None, *_: Any, **__: Any) -> None:  # fmt: skip
    run._emit(wire.Text(*_at(global_step, walltime), values.label(f"{prefix}{tag}"), str(text_string)))


def _add_histogram(run: client.Run, prefix: str, tag: Any, values_: Any = None, global_step: Any = None,
                   bins: Any = None, walltime: Any = None, *_: Any, **kwargs: Any) -> None:  # fmt: skip
    from sidecar.client.histogram import binned

    given = kwargs.get("values") if values_ is None else values_
    edges, counts = binned(given)
    found = Bins(edges, counts)
    run._emit(wire.Histogram(*_at(global_step, walltime), values.label(f"{prefix}{tag}"), found.edges, found.counts))


def _add_hparams(run: client.Run, prefix: str, hparam_dict: Any, metric_dict: Any, *_: Any, **__: Any) -> None:
    run.config({str(name): value for name, value in hparam_dict.items()})
    run.log({str(name): value for name, value in metric_dict.items()})


def _follow_scalar(follower: recorder.Recorder, prefix: str, tag: Any, scalar_value: Any, global_step: Any = None,
                   *_: Any, **__: Any) -> None:  # fmt: skip
    step = values.step_number(global_step or 0)
    follower.add_tensorboard_values({values.label(f"{prefix}{tag}"): _single(plain(scalar_value))}, step)


def _follow_scalars(follower: recorder.Recorder, prefix: str, main_tag: Any, tag_scalar_dict: Any,
                    global_step: Any = None, *_: Any, **__: Any) -> None:  # fmt: skip
    for tag, value in tag_scalar_dict.items():
        _follow_scalar(follower, prefix, f"{main_tag}/{tag}", value, global_step)


def _single(value: Any) -> Any:
    """A number as wandb reads it from an event file: the shortest text of its single precision."""
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > SINGLE_MAX:
        return value
    single = struct.pack("f", value)
    texts = (f"{struct.unpack('f', single)[0]:.{digits}g}" for digits in range(1, 10))
    return next((float(text) for text in texts if struct.pack("f", float(text)) == single), value)


FOLLOWED = {_add_scalar: _follow_scalar, _add_scalars: _follow_scalars}
"""Methods whose values become rows of the wandb run with ``sync_tensorboard``, under wandb's own ``_step``."""
