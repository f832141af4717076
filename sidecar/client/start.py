"""``sidecar.init``: what a run is called, what it is made of, and where its events go.

Given: the user's arguments and the environment. Hands on: a Run.
Never: needs a sidecar to be there, or asks the network anything.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from time import monotonic_ns, time_ns
from typing import Any

import sidecar
from sidecar import ring as ring_file
from sidecar import wire
from sidecar.client import facts, identity, values
from sidecar.client.run import Run, current
from sidecar.rendezvous import default_endpoint

__all__ = ["Run", "current", "init"]

IMPLICIT = "torch"
"""Captured by torch's hooks alone, asked for by nobody: such a run gives way to the first explicit one."""
IMPLICIT_FLUSH_SECONDS = 1.0
FACTS_BYTES_MAX = 128 * 1024  # The Hello is one message: configuration, facts and notes have to fit it together.
NOTES_CHARS_MAX = 64 * 1024
TAGS_MAX = 256
RANKS_MAX = 2**31 - 1
STAGES = {"pretraining": "pretrain", "midtraining": "midtrain"}
"""Long forms that are accepted, and how they are shown."""

_implicit: Run | None = None


def init(
    project: str,
    name: str | None = None,
    stage: str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
    model: Any = None,
    model_facts: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    group: str | None = None,
    tags: Sequence[str] | None = (),
    notes: str | None = None,
    entity: str | None = None,
    sinks: Sequence[str] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    endpoint: str | None = None,
    captured: str | None = None,
) -> Run:
    """Begin a run, or this rank's part of it. Call it once per process (again for a further run).

    ``model`` is an nn.Module whose size and shape are looked up; ``model_facts`` are the same by hand and win:
    flops_per_token, peak_flops (of one device, FLOP/s), peak_source, params, trainable_params, layers, heads, head_dim,
    seq_len, dtype, device_name. ``sinks`` names outlets such as "wandb"; None leaves the choice to the sidecar.

    The sidecar is found by ``endpoint``, else SIDECAR_ENDPOINT, else the default of this user and machine. It need not
    be there: the ring keeps what is emitted, and the next sidecar at that endpoint claims it.

    ``captured`` names the library whose calls make this run; "torch" begins an implicit one, which the first run that
    somebody asks for replaces under the same id.

    Raises TypeError or ValueError for a wrong argument; nothing after this call ever raises.
    """
    _check(project, name, stage, config, model_facts, sinks, endpoint)
    environ = os.environ
    own_rank = _whole_number("rank", identity.rank(environ) if rank is None else rank, 0, RANKS_MAX)
    ranks = identity.world_size(environ) if world_size is None else world_size
    ranks = _whole_number("world_size", ranks, 1, RANKS_MAX)
    steps = None if total_steps is None else _whole_number("total_steps", total_steps, 0, wire.STEP_MAX)
    _retire_implicit()
    number = identity.next_init_number()
    rejected: dict[str, int] = {}
    run_name = name or environ.get("SIDECAR_NAME")  # `sidecar run --name`.
    hello = wire.Hello(
        run_id=values.text(identity.run_id(run_id, environ, number, project, name, stage)),
        rank=own_rank,
        project=values.text(project),
        name=None if run_name is None else values.text(run_name),
        stage=None if stage is None else values.text(STAGES.get(stage, stage)),
        world_size=ranks,
        config=values.wire_map(config, rejected),
        model_facts=values.wire_map(facts.model_facts(model, model_facts), rejected, bytes_max=FACTS_BYTES_MAX),
        total_steps=steps,
        group=None if group is None else values.label(group),
        tags=[values.label(tag) for tag in _several(tags)][:TAGS_MAX],
        notes=None if notes is None else values.text(notes)[:NOTES_CHARS_MAX],
        entity=None if entity is None else values.label(entity),
        sinks=None if sinks is None else [values.label(sink) for sink in sinks],
        captured=captured,
        answers_fetch=True,
        **_this_process(environ),
    )
    run = Run(hello, endpoint or environ.get("SIDECAR_ENDPOINT") or default_endpoint())
    run.rejected.update(rejected)
    if captured == IMPLICIT:
        global _implicit
        _implicit = run
    return run


def _this_process(environ: Mapping[str, str]) -> dict[str, Any]:
    """What a Hello says of the process itself, now."""
    return {
        "session": int.from_bytes(os.urandom(8)) >> 1,
        "time_ns": time_ns(),
        "mono_ns": monotonic_ns(),
        "local_rank": identity.local_rank(environ),
        "pid": os.getpid(),
        "pid_started": ring_file.process_started_seconds(os.getpid()),
        "host": values.text(os.uname().nodename),
        "launch_id": values.text(identity.launch_id(environ)),
        "gpu_uuids": facts.gpu_uuids(),
        "client": sidecar.__version__,
    }


def _retire_implicit() -> None:
    global _implicit
    if _implicit is not None:
        _implicit.finish(timeout_seconds=IMPLICIT_FLUSH_SECONDS)
        _implicit = None
        identity.forget_last_init()


def _check(
    project: Any, name: Any, stage: Any, config: Any, model_facts: Any, sinks: Any, endpoint: Any
) -> None:
    if not isinstance(project, str) or not project:
        raise TypeError(f"project must be a non-empty string, not {project!r}")
    for label, text in (("name", name), ("stage", stage), ("endpoint", endpoint)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{label} must be a string or None, not {text!r}")
    for label, given in (("config", config), ("model_facts", model_facts)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{label} must be a mapping such as vars(args), not {type(given).__name__}")
    if isinstance(sinks, str):
        raise TypeError(f"sinks must be a list of names, such as [{sinks!r}], not a string")


def _whole_number(label: str, given: Any, minimum: int, maximum: int) -> int:
    try:
        number = operator.index(given)
    except TypeError:
        raise ValueError(f"{label} must be a whole number, not {given!r}") from None
    if not minimum <= number <= maximum:
        raise ValueError(f"{label} must be from {minimum} to {maximum}, not {given!r}")
    return number


def _several(given: Sequence[str] | str | None) -> Sequence[str]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else given
