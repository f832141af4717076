"""``sidecar.init``: what a run is called, what it is made of, and where its events go.

Given: the user's arguments and the environment. Hands on: a Run.
Never: needs a sidecar to be there, or asks the network anything.
"""

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
    tags: Sequence[str] = (),
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
    _check(project, name, stage, total_steps, sinks)
    environ = os.environ
    _retire_implicit()
    number = identity.next_init_number()
    hello = wire.Hello(
        run_id=identity.run_id(run_id, environ, number, project, name, stage),
        rank=identity.rank(environ) if rank is None else rank,
        session=int.from_bytes(os.urandom(8)) >> 1,
        time_ns=time_ns(),
        mono_ns=monotonic_ns(),
        project=project,
        name=name or environ.get("SIDECAR_NAME"),  # `sidecar run --name`.
        stage=STAGES.get(stage or "", stage),
        world_size=identity.world_size(environ) if world_size is None else world_size,
        local_rank=identity.local_rank(environ),
        pid=os.getpid(),
        pid_started=ring_file.process_started_seconds(os.getpid()),
        host=os.uname().nodename,
        launch_id=identity.launch_id(environ),
        config=values.wire_map(config),
        model_facts=values.wire_map(facts.model_facts(model, model_facts)),
        total_steps=total_steps,
        group=group,
        tags=[str(tag) for tag in tags],
        notes=notes,
        entity=entity,
        sinks=None if sinks is None else list(sinks),
        gpu_uuids=facts.gpu_uuids(),
        client=sidecar.__version__,
        captured=captured,
    )
    run = Run(hello, endpoint or environ.get("SIDECAR_ENDPOINT") or default_endpoint())
    if captured == IMPLICIT:
        global _implicit
        _implicit = run
    return run


def _retire_implicit() -> None:
    global _implicit
    if _implicit is not None:
        _implicit.finish(timeout_seconds=IMPLICIT_FLUSH_SECONDS)
        _implicit = None
        identity.forget_last_init()


def _check(project: Any, name: Any, stage: Any, total_steps: Any, sinks: Any) -> None:
    if not isinstance(project, str) or not project:
        raise TypeError(f"project must be a non-empty string, not {project!r}")
    for label, text in (("name", name), ("stage", stage)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{label} must be a string or None, not {text!r}")
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 0):
        raise ValueError(f"total_steps must be a whole number of steps or None, not {total_steps!r}")
    if isinstance(sinks, str):
        raise TypeError(f"sinks must be a list of names, such as [{sinks!r}], not a string")
