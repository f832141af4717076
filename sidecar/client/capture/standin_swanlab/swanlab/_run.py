"""swanlab's run.

Given: a script's calls. Hands on: rows and configuration. Never: keeps pictures, sound or files: they are counted.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidecar.client import run as client
from sidecar.client import values
from sidecar.client.capture import resume as resuming
from sidecar.client.capture.begin import begin
from sidecar.client.capture.plain import Bins, plain
from sidecar.client.capture.swanlab_rows import SwanlabRows


class Config:
    """``config["lr"]``, ``config.lr``, ``update``: a map whose changes go to the run."""

    def __init__(self) -> None:
        object.__setattr__(self, "_items", {})

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({str(key): value})

    __setattr__ = __setitem__

    def __getattr__(self, key: str) -> Any:
        try:
            return self._items[key]
        except KeyError as error:
            raise AttributeError(f"config has no attribute {key!r}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __str__(self) -> str:
        return str(self._items)

    def keys(self) -> Any:
        return self._items.keys()

    def get(self, key: str, default: Any = None) -> Any:
        return self._items.get(key, default)

    def set(self, name: str, value: Any) -> None:
        self[name] = value

    def pop(self, key: str, *default: Any) -> Any:
        return self._items.pop(key, *default)

    def update(self, given: Any = None, **more: Any) -> None:
        changes = {**_mapping(given), **more}
        self._items.update(changes)
        if _run is not None and _run._client is not None:
            _run._client.config({str(key): _config_value(value) for key, value in changes.items()})

    def _reset(self) -> None:
        self._items.clear()


config = Config()
_run: "Run | None" = None


class Run:
    def __init__(self, run: client.Run | None, mode: str, name: str, directory: str, first_step: int = 0) -> None:
        self._client, self.mode, self.name = run, mode, name
        self.id = "disabled" if run is None else run.id
        self.project = "" if run is None else run.project
        self.dir, self.alive = Path(directory), True
        self._rows = None if run is None else SwanlabRows(run, first_step)

    @property
    def config(self) -> Config:
        return config

    @property
    def url(self) -> str:
        return ""

    path = url

    @property
    def public(self) -> "Run":
        return self

    cloud = public
    experiment_url = project_url = url

    def log(self, data: Any, step: int | None = None) -> None:
        """Wrong data or steps are counted and ignored, as swanlab ignores them."""
        if self._rows is None:
            return
        if not self.alive:
            raise RuntimeError("swanlab.log() requires an active run; the run has been finished")
        self._rows.log(data, step)

    def log_scalar(self, *, key: str, value: Any, step: int | None = None) -> None:
        self.log({key: value}, step)

    def log_text(self, *, key: str, data: Any, caption: Any = None, step: int | None = None) -> None:
        from .media import Text

        self.log({key: data if isinstance(data, Text) else Text(data)}, step)

    def log_html(self, *, key: str, data: Any, caption: Any = None, step: int | None = None) -> None:
        from .media import Html

        self.log({key: data if isinstance(data, Html) else Html(data)}, step)

    def log_image(self, *, key: str, data: Any = None, step: int | None = None, **_: Any) -> None:
        if self._client is not None:
            values.count(self._client.rejected, "media_not_kept")

    log_audio = log_video = log_echarts = log_object3d = log_molecule = log_image

    def async_log(self, func: Any, *args: Any, step: int | None = None, mode: str = "threading", **kwargs: Any) -> Any:
        from concurrent.futures import Future

        done: Future[Any] = Future()
        try:
            result = func(*args, **kwargs)
            self.log(result, step)
            done.set_result(result)
        except Exception as error:  # noqa: BLE001  # As in swanlab, the error is in the returned future.
            done.set_exception(error)
        return done

    def define_metric(self, *args: Any, **kwargs: Any) -> None:
        return None

    def save(self, *args: Any, **kwargs: Any) -> list[str]:
        if self._client is not None:
            values.count(self._client.rejected, "file_not_kept")
        return []

    def finish(self, state: str = "success", error: str | None = None, **_: Any) -> None:
        global _run
        if not self.alive:
            return
        self.alive = False
        if _run is self:
            _run = None
        if self._client is not None:
            failed = str(state) in ("crashed", "aborted", "failed")
            self._client.finish("failed", reason=error or str(state)) if failed else self._client.finish()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.finish("success" if kind is None else "crashed", None if kind is None else kind.__name__)


def init(  # noqa: PLR0913
    project: str | None = None, workspace: str | None = None, experiment_name: str | None = None,
    description: str | None = None, job_type: str | None = None, group: str | None = None, tags: Any = None,
    config: Any = None, logdir: Any = None, log_dir: Any = None, mode: str | None = None, name: str | None = None,
    notes: str | None = None, id: str | None = None, resume: Any = None, reinit: bool | None = None, **_: Any,
) -> Run:  # fmt: skip
    """Returns the active run, unless ``reinit``. Raises RuntimeError for ``resume="must"`` and an unknown id."""
    global _run
    settings = globals()["config"]
    if _run is not None:
        if not reinit:
            return _run
        _run.finish()
    mode = mode or os.environ.get("SWANLAB_MODE") or "online"
    settings._reset()
    directory = str(log_dir or logdir or os.environ.get("SWANLAB_LOG_DIR") or "swanlog")
    if mode == "disabled":
        _run = Run(None, mode, "disabled", directory)
        settings.update(config)
        return _run
    past = None
    if resume in ("must", "allow", True) and id:
        try:
            past = resuming.past(id)
        except resuming.CannotAsk:
            past = None
        else:
            if past is None and resume == "must":
                raise RuntimeError(f"resume='must', but there is no run {id}")
    values_given = {**({} if past is None else past.config), **_mapping(config)}
    run = begin(
        "swanlab",
        project=project or os.environ.get("SWANLAB_PROJ_NAME") or os.environ.get("SWANLAB_PROJECT") or _default(),
        name=name or experiment_name,
        run_id=id or os.environ.get("SWANLAB_RUN_ID"),
        config={str(key): _config_value(value) for key, value in values_given.items()},
        group=group,
        tags=tags or (),
        notes=notes or description,
        entity=workspace,
    )
    first = 0 if past is None or past.last_step is None else past.last_step + 1
    _run = Run(run, mode, run.name or run.id, directory, first)
    settings._items.update(values_given)
    return _run


def _default() -> str | None:
    return os.environ.get("SIDECAR_PROJECT") or os.path.basename(os.getcwd()) or None


def has_run() -> bool:
    return _run is not None


def get_run() -> Run:
    """Raises RuntimeError when there is none."""
    if _run is None:
        raise RuntimeError("No active Run. Call swanlab.init() first.")
    return _run


def _current(what: str) -> Run:
    if _run is None:
        raise RuntimeError(f"`swanlab.{what}()` requires an active run. Call `swanlab.init()` first.")
    return _run


def _command(name: str) -> Any:
    def command(*args: Any, **kwargs: Any) -> Any:
        return getattr(_current(name), name)(*args, **kwargs)

    command.__name__, command.__doc__ = name, getattr(Run, name).__doc__
    return command


log = _command("log")
log_scalar, log_text, log_html = _command("log_scalar"), _command("log_text"), _command("log_html")
log_image, log_audio, log_video = _command("log_image"), _command("log_audio"), _command("log_video")
log_echarts, log_object3d, log_molecule = _command("log_echarts"), _command("log_object3d"), _command("log_molecule")
async_log, define_metric, save = _command("async_log"), _command("define_metric"), _command("save")


def finish(state: str = "success", error: str | None = None, **_: Any) -> None:
    if _run is not None:
        _run.finish(state, error)


def _mapping(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    if hasattr(given, "keys"):
        return {str(key): given[key] for key in given}
    return dict(vars(given)) if hasattr(given, "__dict__") else {}


def _config_value(value: Any) -> Any:
    try:
        found = plain(value)
    except (TypeError, ValueError):
        return str(value)
    return str(value) if isinstance(found, Bins) else found
