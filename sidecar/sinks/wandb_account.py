"""Which W&B mode, account and labels a run gets: decided from options, environment and netrc, without wandb.

Given: the sink's options, an environment, the RunInfo. Hands on: plain values and the reason for them.
Never: shows or returns the key, imports wandb, or asks a server.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from sidecar.rows import RunInfo
from sidecar.sinks.wandb_upstream import key_of

Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online", "run": "online", "shared": "online",
    "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip
"""What WANDB_MODE may say, old spellings included."""

DEFAULT_BASE_URL = "https://api.wandb.ai"
ID_CHARS_MAX = 64

KEPT_VARIABLES = (
    "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE", "WANDB_BASE_URL", "WANDB_ENTITY",
    "WANDB_PROJECT", "WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_NAME", "WANDB_NOTES",
    "WANDB_JOB_TYPE", "WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_HTTP_TIMEOUT",
    "WANDB_INSECURE_DISABLE_SSL", "WANDB_X_FILE_*", "WANDB_X_GRAPHQL_*", "WANDB_X_EXTRA_HTTP_HEADERS", "NETRC",
)  # fmt: skip
"""The rest (run id, resume, service, program, sweep, ...) describes the trainer's own wandb, not ours."""


class Choice(msgspec.Struct, frozen=True):
    mode: Mode
    reason: str | None = None
    """Why not online, in one line."""


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    project: str
    name: str
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None


def choose_mode(options: Mapping[str, Any], environ: Mapping[str, str]) -> Choice:
    """Option, else WANDB_MODE or WANDB_DISABLED, else online with a key and offline without."""
    asked, source = options.get("mode"), "wandb_mode"
    if not asked:
        asked, source = environ.get("WANDB_MODE", "").strip().lower(), "WANDB_MODE"
    if not asked and environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        return Choice("disabled", "disabled: WANDB_DISABLED is set")
    mode = MODES.get(asked or "online")
    if mode is None:
        return Choice("offline", f"offline: {source}={asked!r} is not one of {', '.join(sorted(MODES))}")
    if mode != "online":
        return Choice(mode, f"{mode}: {source}={asked}")
    if has_credentials(environ):
        return Choice("online")
    return Choice("offline", "offline: no key; set WANDB_API_KEY or run `wandb login`")


def has_credentials(environ: Mapping[str, str]) -> bool:
    """Is there a key in the environment or in netrc (where ``wandb login`` puts it), or an identity token?"""
    base_url = environ.get("WANDB_BASE_URL") or DEFAULT_BASE_URL
    return bool(environ.get("WANDB_IDENTITY_TOKEN_FILE")) or key_of(environ, base_url) is not None


def labels(run: RunInfo, options: Mapping[str, Any], environ: Mapping[str, str]) -> Labels:
    """Options beat WANDB_* beat what the trainer said; for a captured script the trainer's own words beat WANDB_*,
    as they do in wandb itself. A further node of a run is a W&B run of its own, grouped and named by its ranks."""
    project = run.project or None
    from_environ = environ.get("WANDB_PROJECT") or None
    by_rank = (project, from_environ) if run.captured else (from_environ, project)
    name = run.name or environ.get("WANDB_NAME") or run.run_id
    node = run.node is not None
    tags = run.tags or [tag.strip() for tag in environ.get("WANDB_TAGS", "").split(",") if tag.strip()]
    return Labels(
        id=run_id(f"{run.run_id}-rank{run.node}" if node else run.run_id),
        project=clean_project(options.get("project") or by_rank[0] or by_rank[1] or "uncategorized"),
        name=f"{name} (ranks from {run.node})" if node else name,
        entity=options.get("entity") or run.entity or environ.get("WANDB_ENTITY") or None,
        group=run.group or environ.get("WANDB_RUN_GROUP") or (name if node else None),
        job_type=run.stage or environ.get("WANDB_JOB_TYPE") or None,
        tags=tuple(dict.fromkeys(tag[:64] for tag in tags if tag)),
        notes=run.notes or environ.get("WANDB_NOTES") or None,
    )


def run_id(text: str) -> str:
    """``text`` as a W&B run id, always the same for the same text: changed ones get a hash, so none collide."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    if clean == text and 0 < len(text) <= ID_CHARS_MAX:
        return text
    return f"{clean[: ID_CHARS_MAX - 9]}-{hashlib.blake2s(text.encode(), digest_size=4).hexdigest()}"


def clean_project(text: str) -> str:
    """W&B refuses ``/\\#?%:`` in project names and more than 128 characters."""
    return re.sub(r"[/\\#?%:]", "-", text)[:128]


def start_line(labels: Labels) -> str:
    return f"W&B initialized: {labels.project}/{labels.name}"
