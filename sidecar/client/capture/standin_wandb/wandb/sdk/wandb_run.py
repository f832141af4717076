"""The Run that scripts hold: rows go to a recorder, everything else is answered here.

Given: a script's calls. Hands on: rows, configuration and summary to the sidecar's recorder.
Never: waits for a server, or keeps files, pictures and models: those are counted as not kept.
"""

import contextlib
import glob as globbing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from sidecar.client.capture import resume as resuming
from sidecar.client.capture.definitions import OPERATIONS, Definition
from sidecar.client.capture.recorder import Recorder
from sidecar.client.capture.watch import Watch

from ..errors import CommError, Error, UsageError
from .lib import module
from .wandb_alerts import AlertLevel
from .wandb_config import Config, ConfigStatic
from .wandb_metric import Metric
from .wandb_settings import Settings
from .wandb_summary import Summary

active_runs: "list[Run]" = []


class Run:
    """See wandb's own documentation of Run."""

    def __init__(self, settings: Settings, config: dict[str, Any] | None = None) -> None:
        self._settings = settings
        self._init_pid = os.getpid()
        self._attach_id: str | None = settings.run_id
        self._is_finished = False
        self._start_time = time.time()
        settings.x_start_time = self._start_time
        self._dir: str | None = None
        self._recorder: Recorder | None = None
        self._watch: Watch | None = None
        self._config = Config()
        self._config._update(config or {}, allow_val_change=True)
        self.summary: Any = Summary(self._summary_items, self._put_summary, self._drop_summary)

    def _start(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._starting_step = recorder.step
        self._config._set_callback(recorder.run.config)
        active_runs.append(self)
        self._frozen = True

    # -- rows --------------------------------------------------------------------------------------------------------

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        if self._is_finished:
            self._refuse("log")
        if self._recorder is not None:
            self._recorder.log(data, step, commit)

    @property
    def step(self) -> int:
        return 0 if self._recorder is None else self._recorder.step

    def define_metric(
        self,
        name: str,
        step_metric: str | Metric | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        overwrite: bool | None = None,
    ) -> Metric:
        self._need("define_metric")
        if not name:
            raise Error("define_metric() requires non-empty name argument")
        if isinstance(step_metric, Metric):
            step_metric = step_metric.name
        for label, given, expected in (
            ("name", name, str), ("step_metric", step_metric, str), ("step_sync", step_sync, bool),
            ("hidden", hidden, bool), ("summary", summary, str), ("overwrite", overwrite, bool),
        ):  # fmt: skip
            if given is not None and not isinstance(given, expected):
                raise Error(f"Unhandled define_metric() arg: {label} type: {type(given).__name__}")
        if "*" in name.removesuffix("*"):
            raise Error(f"Unhandled define_metric() arg: name (glob suffixes only): {name}")
        operations = tuple(item.lower() for item in summary.split(",")) if summary else ()
        for operation in operations:
            if operation not in OPERATIONS:
                raise Error(f"Unhandled define_metric() arg: summary op: {operation}")
        metric = Metric(name, step_metric, step_sync, hidden, operations or None, overwrite)
        if self._recorder is not None:
            self._recorder.definitions.define(
                name, Definition(step_metric, bool(metric.step_sync), frozenset(operations)), bool(overwrite)
            )
        return metric

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return str(self._settings.run_id)

    @property
    def name(self) -> str | None:
        return self._settings.run_name

    @name.setter
    def name(self, name: str) -> None:
        self._settings.run_name = name
        self._changed(name=str(name))

    @property
    def notes(self) -> str | None:
        return self._settings.run_notes

    @notes.setter
    def notes(self, notes: str) -> None:
        self._settings.run_notes = notes
        self._changed(notes=str(notes))

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self._settings.run_tags or ())

    @tags.setter
    def tags(self, tags: Sequence[str]) -> None:
        self._settings.run_tags = tuple(tags)
        self._changed(tags=[str(tag) for tag in tags])

    @property
    def config(self) -> Config:
        return self._config

    @property
    def config_static(self) -> ConfigStatic:
        return ConfigStatic(self._config)

    @property
    def settings(self) -> Settings:
        return self._settings.model_copy()

    @property
    def entity(self) -> str:
        return self._settings.entity or ""

    @property
    def project(self) -> str:
        return str(self._settings.project)

    @property
    def group(self) -> str:
        return self._settings.run_group or ""

    @property
    def job_type(self) -> str:
        return self._settings.run_job_type or ""

    @property
    def path(self) -> str:
        return "/".join(part for part in (self._settings.entity, self.project, self.id) if part is not None)

    @property
    def dir(self) -> str:
        """Made when first asked for: what a script writes there stays there."""
        if self._dir is None:
            try:
                os.makedirs(self._settings.files_dir, exist_ok=True)
            except OSError:
                self._settings.root_dir = tempfile.gettempdir()
                with contextlib.suppress(OSError):
                    os.makedirs(self._settings.files_dir, exist_ok=True)
            self._dir = self._settings.files_dir
        return str(self._dir)

    @property
    def sync_dir(self) -> str:
        return os.path.dirname(self.dir)

    @property
    def start_time(self) -> float:
        return self._start_time

    @property
    def starting_step(self) -> int:
        return self._starting_step

    @property
    def resumed(self) -> bool:
        return bool(self._settings.resumed)

    @property
    def offline(self) -> bool:
        return self._settings._offline

    @property
    def disabled(self) -> bool:
        return self._settings._noop

    @property
    def url(self) -> str | None:
        return None

    project_url = sweep_url = sweep_id = url

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self, exit_code: int | None = None, **_: Any) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        if self in active_runs:
            active_runs.remove(self)
        if self._recorder is not None:
            self.unwatch()
            self._recorder.finish(exit_code)
            if not exit_code and self._settings.resume in ("auto", True):
                resuming.forget(self._resume_file())
        if getattr(sys.modules[module._package().__name__], "run", None) is self:
            module.unset_globals()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            traceback.print_exception(kind, error, trace)
        self.finish(exit_code=0 if kind is None else 1)

    # -- what is not kept --------------------------------------------------------------------------------------------

    def watch(self, models: Any, criterion: Any = None, log: Any = "gradients", log_freq: int = 1000,
              idx: int | None = None, log_graph: bool = False) -> None:  # fmt: skip
        if self._recorder is not None and not self._is_finished:
            self._watch = self._watch or Watch(self._recorder)
            self._watch.add(models, log, log_freq, idx)

    def unwatch(self, models: Any = None) -> None:
        if self._watch is not None:
            self._watch.remove(models)

    def save(self, glob_str: Any, base_path: Any = None, policy: str = "live", glob: bool = True) -> list[str]:
        if policy not in ("live", "end", "now"):
            raise ValueError('Only "live", "end" and "now" policies are currently supported.')
        self._not_kept("save", "file_not_kept")
        path = os.fsdecode(glob_str)
        return sorted(globbing.glob(path)) if glob else [path]

    def log_artifact(self, artifact_or_path: Any, name: str | None = None, type: str | None = None,
                     aliases: list[str] | None = None, tags: list[str] | None = None) -> Any:  # fmt: skip
        from .artifacts.artifact import Artifact

        self._not_kept("log_artifact", "artifact_not_kept")
        if isinstance(artifact_or_path, Artifact):
            return artifact_or_path
        return Artifact(name or f"run-{self.id}-{os.path.basename(str(artifact_or_path))}", type or "unspecified")

    upsert_artifact = finish_artifact = log_artifact

    def use_artifact(
        self, artifact_or_name: Any, type: str | None = None, aliases: Any = None, use_as: Any = None
    ) -> Any:
        from .artifacts.artifact import Artifact

        self._need("use_artifact")
        if isinstance(artifact_or_name, Artifact):
            return artifact_or_name
        self._not_kept("use_artifact", "artifact_not_kept")
        raise CommError(f"artifact {artifact_or_name!r} is on the W&B server, which a captured run does not ask")

    def link_artifact(self, *args: Any, **kwargs: Any) -> Any:
        self._not_kept("link_artifact", "artifact_not_kept")

    log_model = log_code = link_model = link_artifact

    def use_model(self, name: str) -> str:
        raise CommError(f"model {name!r} is on the W&B server, which a captured run does not ask")

    def alert(self, title: str, text: str, level: Any = None, wait_duration: Any = None) -> None:
        self._need("alert")
        level = level or AlertLevel.INFO
        word = level.value if isinstance(level, AlertLevel) else level
        if word not in {known.value for known in AlertLevel}:
            raise ValueError("level must be one of 'INFO', 'WARN', or 'ERROR'")
        if self._recorder is not None:
            self._recorder.text(f"alert/{title}", f"{word}: {text}")

    def mark_preempting(self) -> None:
        self._need("mark_preempting")

    def status(self) -> None:
        return None

    def write_logs(self, text: str) -> None:
        pass

    def pin_config_keys(self, keys: Sequence[str] = ()) -> None:
        self._need("pin_config_keys")

    def restore(self, name: str, run_path: str | None = None, replace: bool = False, root: str | None = None) -> Any:
        return restore(name, run_path or self.path, replace, root or self.dir)

    def display(self, height: int = 420, hidden: bool = False) -> bool:
        return False

    def to_html(self, height: int = 420, hidden: bool = False) -> str:
        return f"<p>run {self.id}, kept by the sidecar</p>"

    def _label(
        self, code: str | None = None, repo: str | None = None, code_version: str | None = None, **_: Any
    ) -> None:
        pass

    # -- below: mechanics --------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_frozen", None) and not hasattr(self, name):
            raise Exception(f"Attribute {name} is not supported on Run object.")
        super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Run":
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickled, (self._attach_id, dict(vars(self._settings)))

    def _resume_file(self) -> str:
        """Where ``resume="auto"`` keeps the id of a run that has not ended well."""
        return str(self._settings.resume_fname)

    def _need(self, what: str) -> None:
        if self._is_finished:
            self._refuse(what)

    def _refuse(self, what: str) -> None:
        raise UsageError(
            f"Run ({self.id}) is finished. The call to `{what}` will be ignored."
            " Please make sure that you are using an active run."
        )

    def _not_kept(self, what: str, reason: str) -> None:
        self._need(what)
        if self._recorder is not None:
            self._recorder.count(reason)

    def _summary_items(self) -> dict[str, Any]:
        if self._recorder is None or not self._recorder.definitions.summary:
            return {}
        now = time.time()
        own = {"_step": max(0, self._recorder.step - 1), "_runtime": now - self._start_time, "_timestamp": now}
        return {**own, **self._recorder.definitions.summary}

    def _put_summary(self, values: dict[str, Any]) -> None:
        self._need("_summary_update_callback")
        if self._recorder is not None:
            self._recorder.summarise(values)

    def _drop_summary(self, name: str) -> None:
        self._need("_summary_update_callback")
        if self._recorder is not None:
            self._recorder.forget(name)

    def _changed(self, **said: Any) -> None:
        if self._recorder is not None:
            self._recorder.rename(**said)


def _unpickled(attach_id: str | None, settings: dict[str, Any]) -> Run:
    """The same run in its own process; in another process a run whose calls do nothing."""
    for run in active_runs:
        if run.id == attach_id and run._init_pid == os.getpid():
            return run
    run = Run(Settings(**settings))
    run._starting_step = 0
    run._frozen = True
    return run


def restore(name: str, run_path: str | None = None, replace: bool = False, root: str | None = None) -> Any:
    """Open a file that exists already. Raises CommError for one that only the server has."""
    if run_path is None and module._package().run is None:
        raise ValueError("run_path required when calling wandb.restore before wandb.init")
    path = os.path.join(root or os.getcwd(), name)
    if os.path.exists(path) and not replace:
        return open(path)
    raise CommError(f"file {name!r} is on the W&B server, which a captured run does not ask")


def finish(exit_code: int | None = None, **_: Any) -> None:
    run = module._package().run
    if run is not None:
        run.finish(exit_code=exit_code)
