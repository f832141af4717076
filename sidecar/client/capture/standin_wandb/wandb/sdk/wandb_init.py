"""``wandb.init``: begins a captured run, or returns the active one.

Given: the keywords of wandb 0.31 and WANDB_* variables. Hands on: a Run, and ``wandb.run`` and its followers set.
Never: contacts W&B; the only question it asks is the local sidecar's, where a run that is resumed left off.
"""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

from sidecar.client.capture import hooks, repository
from sidecar.client.capture import recorder as recording
from sidecar.client.capture import resume as resuming
from sidecar.client.capture.begin import begin
from sidecar.client.capture.recorder import Recorder

from ..errors import Error, UsageError
from ..errors.errors import InvalidSetting
from ..errors.term import termwarn
from . import wandb_helper, wandb_setup
from .lib import module, runid
from .noop_run import NoopRun
from .wandb_config import as_stored
from .wandb_run import Run, active_runs
from .wandb_settings import Settings

RESUME = (None, True, False, "allow", "never", "must", "auto")
REINIT = (None, True, False, "default", "return_previous", "finish_previous", "create_new")


def init(  # noqa: C901
    entity: str | None = None,
    project: str | None = None,
    dir: Any = None,
    id: str | None = None,
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | None = None,
    config: Any = None,
    config_exclude_keys: list[str] | None = None,
    config_include_keys: list[str] | None = None,
    allow_val_change: bool | None = None,
    group: str | None = None,
    job_type: str | None = None,
    mode: str | None = None,
    force: bool | None = None,
    reinit: bool | str | None = None,
    resume: bool | str | None = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    save_code: bool | None = None,
    tensorboard: bool | None = None,
    sync_tensorboard: bool | None = None,
    monitor_gym: bool | None = None,
    settings: Any = None,
    anonymous: Any = None,
) -> Run:
    """Raises UsageError for a wrong id, project or mode; Error where real wandb does."""
    given = wandb_setup.setup().settings.model_copy()
    given.root_dir = given.root_dir  # Fixed now: a script that changes its folder later does not move the run.
    given.update(Settings.of(settings))
    given.update(Settings(
        entity=entity, project=project, root_dir=os.fspath(dir) if dir is not None else None, run_id=id, run_name=name,
        run_notes=notes, run_tags=None if tags is None else tuple(tags), run_group=group, run_job_type=job_type,
        mode=mode, reinit=reinit,
        resume=resume, resume_from=resume_from, fork_from=fork_from, save_code=save_code,
    ))  # fmt: skip
    if given.resume not in RESUME or given.reinit not in REINIT:
        raise InvalidSetting(f"resume={given.resume!r}, reinit={given.reinit!r}: not one of wandb's choices")
    values = wandb_helper.parse_config(config or {}, include=config_include_keys, exclude=config_exclude_keys)
    if given._noop:
        return _disabled(given, values)
    alive = _alive()
    if alive and given.reinit in (True, "finish_previous"):
        for run in alive:
            run.finish()
    elif alive and given.reinit != "create_new":
        if given.resume == "must":
            raise Error(
                "Cannot resume a run while another run is active. You must either finish it using run.finish(),"
                " or use reinit='create_new' when calling wandb.init()."
            )
        return alive[-1]
    run = _begin(given, values)
    if sync_tensorboard or tensorboard:
        hooks.install(["tensorboard"])
        recording.follow_writers(run._recorder)
    if given.reinit != "create_new":
        module.set_global(run)
    return run


def _begin(given: Settings, values: dict[str, Any]) -> Run:
    run = Run(given, values)
    resumption = run._resume_file() if given.resume in ("auto", True) else None
    if resumption is not None and not given.run_id:
        given.run_id = resuming.id_in(resumption)
    found = _found(given)
    client = begin(
        "wandb",
        project=given.project or os.environ.get("SIDECAR_PROJECT") or repository.project(),
        name=given.run_name,
        run_id=given.run_id,
        config=dict(run.config.items()),
        group=given.run_group,
        tags=given.run_tags or (),
        notes=given.run_notes,
        entity=given.entity,
    )
    given.project = client.project
    given.run_id = client.id
    given.run_name = client.name or client.id
    run._attach_id = client.id
    if found is not None:
        given.resumed = True
        run.config._update({**found.config, **run.config._items}, allow_val_change=True)
    if resumption is not None:
        resuming.remember(resumption, client.id)
    run.config._items.update(as_stored(run.config._items))
    recorder = Recorder(client, 0 if found is None or found.last_step is None else found.last_step + 1)
    if found is not None:
        recorder.definitions.restore(found.summary, found.explicit)
    run._start(recorder)
    return run


def _found(given: Settings) -> "resuming.Past | None":
    """The run to be resumed as the sidecar knows it; None for a new one."""
    if given.resume in (None, False) and not given.resume_from:
        return None
    if given.resume_from and not given.run_id:
        given.run_id = str(given.resume_from).partition("?")[0]
    if not given.run_id:
        if given.resume == "must":
            raise UsageError("wandb.init(resume='must') needs the id of the run to resume")
        return None
    try:
        past = resuming.past(given.run_id)
    except resuming.CannotAsk:  # As real wandb does offline: the run begins anew under that id.
        termwarn(f"no sidecar answered whether run {given.run_id} exists: its steps begin at 0")
        return None
    if past is None and given.resume == "must":
        raise UsageError(
            f"You provided an invalid value for the `resume` argument. The value 'must' is not a valid option for"
            f" resuming a run ({given.run_id}) that does not exist. Please check your inputs and try again with a valid"
            f" run ID. If you are trying to start a new run, please omit the `resume` argument or use `resume='allow'`."
        )
    if past is not None and given.resume == "never":
        raise UsageError(f"resume='never', but run {given.run_id} exists: choose another id")
    return None if given.resume == "never" else past


def _disabled(given: Settings, values: dict[str, Any]) -> Run:
    given.run_id = given.run_id or runid.generate_id()
    given.project = given.project or "dummy"
    given.resume = None
    given.run_name = given.run_name or f"dummy-{given.run_id}"
    given.entity = given.entity or "dummy"
    given.root_dir = tempfile.gettempdir()
    run = NoopRun(given, values)
    module.set_global(run)
    return run


def _alive() -> list[Run]:
    return [run for run in active_runs if run._init_pid == os.getpid()]


def _attach(attach_id: str | None = None, run_id: str | None = None, *, run: Run | None = None) -> Run | None:
    """Raises UsageError for a run that is not one of this process."""
    attach_id = attach_id or run_id
    if (attach_id is None) == (run is None):
        raise UsageError("Either (`attach_id` or `run_id`) or `run` must be specified")
    wanted = attach_id if run is None else run.id
    for known in _alive():
        if known.id == wanted:
            module.set_global(known)
            return known
    raise UsageError(f"Unable to attach to run {wanted}")
