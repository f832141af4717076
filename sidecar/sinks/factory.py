"""How a sink's runner is put together: its class and options, its gate, its policy, its way to the journal.

Given: the configuration and the store, then a run and a sink's name. Hands on: a runner, not yet started.
Never: decides which run gets which sink, or lets rows leave the machine without a gate.
"""

import os
import random
import socket
from pathlib import Path
from typing import Any

import msgspec

from sidecar.follow import Follower
from sidecar.sinks import egress, registry
from sidecar.sinks.base import Sink, SinkContext
from sidecar.sinks.cursors import Cursor, Cursors
from sidecar.sinks.deadletters import DeadLetters
from sidecar.sinks.isolate import IsolatedSink
from sidecar.sinks.privacy import Gate, Identity
from sidecar.sinks.runner import SinkRunner
from sidecar.sinks.source import Policy, Source
from sidecar.store import Store
from sidecar.telemetry import SinkHealth


class RunnerFactory:
    def __init__(self, config: Any, store: Store, policy: Policy) -> None:
        self._config, self._store, self._policy = config, store, policy
        self.gates: dict[tuple[str, str], Gate] = {}
        """By run and sink. A runner that is made again goes on with the counts of the one before."""

    def make(self, run_id: str, name: str, cursors: Cursors, health: SinkHealth | None) -> SinkRunner:
        """``health``: of an earlier runner of the same sink, to go on with. Raises UnknownSink, SinkNotInstalled, and
        ValueError or OSError for a bad option or a folder that cannot be made."""
        kind = registry.load(name)
        data_dir = Path(self._config.dir)
        allow = list(self._config.allow)
        context = SinkContext(sink=name, data_dir=str(data_dir), options=self._options(name), allow=allow)
        isolated = getattr(kind, "isolated", False)
        sink: Sink
        if isolated:
            sink = IsolatedSink(registry.target_of(name), context, getattr(kind, "environment", ()))
        else:
            sink = kind(context)  # type: ignore[call-arg]
        gate = None
        if getattr(kind, "leaves_machine", True):
            files = getattr(kind, "sends_files", False)
            gate = self.gates.get((run_id, name)) or Gate(
                run_id, name, allow, self._config.allow_config, identity_of_machine(), sends_files=files,
                before=egress.of_sink(data_dir, run_id, name),
            )  # fmt: skip
            self.gates[run_id, name] = gate
        policy = self._policy_of(kind)
        return SinkRunner(
            run_id, name, sink, lambda start: self._open_source(run_id, start, policy), cursors,
            DeadLetters(data_dir / "dead-letters", run_id, name), gate=gate, policy=policy,
            health=health, random=random.random,
        )  # fmt: skip

    def _policy_of(self, kind: type[Sink]) -> Policy:
        """The period is for what leaves the machine; spellings and one rank are for what people look at."""
        own: dict[str, Any] = {} if getattr(kind, "leaves_machine", True) else {"period_steps": None}
        if not getattr(kind, "spelled", True):
            own["names"] = None
        for field in ("one_rank", "one_row_per_step"):
            own[field] = getattr(kind, field, False)
        return msgspec.structs.replace(self._policy, **own)

    def _options(self, name: str) -> dict[str, Any]:
        """The configuration's fields that begin with the sink's name: wandb_entity is {"entity": ...} for wandb."""
        fields = getattr(type(self._config), "__struct_fields__", None) or vars(self._config)
        prefix = f"{name}_"
        found = {
            field.removeprefix(prefix): getattr(self._config, field) for field in fields if field.startswith(prefix)
        }
        return {key: value for key, value in found.items() if value is not None}

    def _open_source(self, run_id: str, start: Cursor, policy: Policy) -> Source:
        path = self._store.path(run_id)
        return Source(lambda number: Follower(path, run_id, number_max=number), start, policy)


def identity_of_machine() -> Identity:
    """The words by which this user and host could be recognised."""
    words = [socket.gethostname(), socket.gethostname().partition(".")[0]]
    try:
        import pwd

        entry = pwd.getpwuid(os.getuid())
        words += [entry.pw_name, entry.pw_gecos.partition(",")[0], os.path.basename(entry.pw_dir)]
    except (ImportError, KeyError):
        pass
    return Identity.of(*words, *(os.environ.get(name, "") for name in ("USER", "LOGNAME")))
