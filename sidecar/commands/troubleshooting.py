"""The checks of `sidecar doctor` that answer: why is nothing shown, why is nothing sent?

Given: a configuration and an environment. Hands on: findings, each with its fix.
Never: changes anything, prints a secret, or reads a journal too long to be read while somebody waits.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sidecar.config import Config, default_data_directory

JOURNAL_BYTES_MAX = 64 << 20
DAY_SECONDS = 86400
RINGS_SHOWN = 10
FALSE = frozenset({"0", "false", "no", "off"})


class Finding(NamedTuple):
    level: str
    """ok | warning | error"""
    check: str
    text: str
    fix: str = ""


def wandb_shadowed(_: Config) -> Iterator[Finding]:
    """`import wandb` finds a folder of that name in the working directory first: "no attribute 'init'"."""
    here = Path.cwd() / "wandb"
    if (here.is_dir() and (here / "__init__.py").exists()) or here.with_suffix(".py").exists():
        text = f"{here} hides the package: `import wandb` gets that instead"
        yield Finding("warning", "wandb", text, "rename it, or start training from another folder")
    elif here.is_dir():
        text = f"a folder wandb/ is in {Path.cwd()}: without the package installed, `import wandb` finds it, empty"
        fix = "nothing to do while wandb is installed; WANDB_DIR puts what wandb writes elsewhere"
        yield Finding("ok" if _installed("wandb") else "warning", "wandb", text, fix)


def wandb_account(config: Config) -> Iterator[Finding]:
    """"W&B not logging?": key, mode, and whether anything names the outlet at all."""
    from sidecar.sinks import wandb_account as account
    from sidecar.sinks.wandb_upstream import key_of

    environ = os.environ
    key = key_of(environ, environ.get("WANDB_BASE_URL") or account.DEFAULT_BASE_URL)
    where = "in WANDB_API_KEY" if environ.get("WANDB_API_KEY") else "in netrc, by wandb login"
    if key:
        yield Finding("ok", "wandb key", f"{where} (***)")
    else:
        fix = "wandb login, or set WANDB_API_KEY, to send online; `sidecar sync` sends what was written until then"
        yield Finding("ok", "wandb key", "none: --sink wandb writes offline files", fix)
    choice = account.choose_mode({"mode": config.wandb_mode}, environ)
    if choice.mode == "disabled":
        yield Finding("warning", "wandb mode", choice.reason or choice.mode, "unset it, or --wandb-mode online")
    else:
        named = "a sink of every run" if "wandb" in config.sinks else "only where --sink wandb or init(sinks=...) asks"
        yield Finding("ok", "wandb mode", f"{choice.reason or choice.mode}; {named}")
    if environ.get("ENABLE_WANDB", "").lower() in FALSE and "wandb" in config.sinks:
        text = "ENABLE_WANDB is off, yet wandb is a sink"
        yield Finding("warning", "wandb mode", text, "unset ENABLE_WANDB, or drop the sink")


def project_names(config: Config) -> Iterator[Finding]:
    """"No data shown: verify your project name matches"."""
    ours, theirs = config.project, os.environ.get("WANDB_PROJECT")
    if ours and theirs and ours != theirs:
        text = f"runs go to {ours!r}, WANDB_PROJECT says {theirs!r}"
        yield Finding("warning", "project", text, "look into the first, or unset one of the two")


def weave(_: Config) -> Iterator[Finding]:
    """"Weave not working": nothing here needs it."""
    version = _installed("weave")
    text = f"weave {version} is installed; " if version else "weave is not needed: "
    yield Finding("ok", "pictures", text + "`sidecar viz` draws in 3D without it, and `sidecar viz --help` says what")


def latest_run(config: Config) -> Iterator[Finding]:
    """"No data shown", "Missing metrics": what the newest run of this directory holds."""
    from sidecar import drain
    from sidecar.store import Store

    entry = next(iter(Store(config.data_directory).runs()), None) if config.data_directory.is_dir() else None
    if entry is None:
        fix = "`sidecar demo` makes one; a training must call sidecar.init, or run under `sidecar run --capture wandb`"
        yield Finding("ok", "latest run", f"there is no run in {config.dir} yet", fix)
        return
    if entry.path.stat().st_size > JOURNAL_BYTES_MAX:
        yield Finding("ok", "latest run", f"{entry.run_id}: step {entry.last_step}, {entry.state}")
        return
    status = drain.from_journal(config, entry.run_id)
    if status.get("step") is None:
        fix = "call run.step(step, loss=...) once an optimizer step; `sidecar run --capture` listens to wandb.log"
        yield Finding("warning", "latest run", f"{entry.run_id} has no step", fix)
        return
    yield Finding("ok", "latest run", f"{entry.run_id}: step {status['step']}, {entry.state}")
    yield from _missing(status)


def _missing(status: Mapping[str, object]) -> Iterator[Finding]:
    wanted = {
        "loss": "no loss: give run.step(step, loss=...)",
        "tokens": "no tokens, so no tokens/s and no MFU: give run.step(..., tokens=...)",
        "val": "no evaluation metrics: run.log({'val/loss': value}, step=step) when you evaluate",
    }
    for name, text in wanted.items():
        if not status.get(name) and not (name == "loss" and status.get("loss_state")):
            finding, _, fix = text.partition(": ")
            yield Finding("ok", "metrics", finding, fix)


def unsent(config: Config) -> Iterator[Finding]:
    """"Metrics not showing up?": what an outlet has not got."""
    from sidecar.sinks import late
    from sidecar.store import Store

    if not (config.data_directory / "cursors.sqlite").exists():
        return
    for one in late.unsent(Store(config.data_directory))[:5]:
        yield Finding("warning", "unsent", f"{one.sink} of {one.run_id}: {one.lag_rows} rows behind", "sidecar sync")


def rings(config: Config) -> Iterator[Finding]:
    """Rings of dead trainers that no sidecar has taken: events that are nowhere else, and memory in use."""
    from sidecar import leftovers
    from sidecar.launch import endpoint_for

    found = leftovers.leftovers(time.time())
    if not found:
        yield Finding("ok", "rings", "none is orphaned")
        return
    endpoint = config.endpoint or endpoint_for(config.dir, default_data_directory(os.environ))
    ours = {one.path for one in leftovers.of_endpoint(found, endpoint)}
    for one in found[:RINGS_SHOWN]:
        size = f"{_age(one.age_seconds)} old, {one.size_bytes / 2**20:.1f} MiB"
        text = f"{one.path}: {size}, {one.events} events of run {one.run_id}"
        serve = f"`sidecar serve --dir {config.dir}` takes it"
        claim = serve if one.path in ours else "the sidecar of its own endpoint takes it"
        yield Finding("warning", "rings", text, f"{claim}; `sidecar doctor --remove-orphans` removes it for good")
    if len(found) > RINGS_SHOWN:
        text = f"{len(found)} in all, {sum(one.size_bytes for one in found) / 2**20:.0f} MiB"
        yield Finding("warning", "rings", text, "sidecar doctor --remove-orphans")


def _age(seconds: float) -> str:
    if seconds >= DAY_SECONDS:
        return f"{seconds / DAY_SECONDS:.0f} days"
    return f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    wandb_shadowed, wandb_account, project_names, weave, rings, latest_run, unsent,
)  # fmt: skip
