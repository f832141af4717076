"""Beginning a captured run: the one way all captures make their ``Run``.

Given: what a script told its own library. Hands on: a Run whose Hello says which library was captured.
Never: fails because the script named no project.

An implicit run (nobody asked for one: steps were counted by torch's hooks) is replaced, under the same id, by the first
explicit one of its process.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.client.run import Run
from sidecar.client.start import init

PROJECT_DEFAULT = "uncategorized"  # What wandb itself uses when it can infer nothing.


def begin(
    captured: str,
    *,
    project: str | None = None,
    name: str | None = None,
    run_id: str | None = None,
    config: Mapping[str, Any] | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    entity: str | None = None,
) -> Run:
    environ = os.environ
    return init(
        _text(project) or environ.get("SIDECAR_PROJECT") or PROJECT_DEFAULT,
        _text(name) or environ.get("SIDECAR_NAME"),
        environ.get("SIDECAR_STAGE"),
        config=config,
        run_id=_text(run_id),
        group=_text(group),
        tags=[str(tag) for tag in tags],
        notes=_text(notes),
        entity=_text(entity),
        captured=captured,
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value) or None
