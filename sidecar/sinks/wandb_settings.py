"""The wandb library, with everything switched off by which it would read this machine.

Given: the sink's options, a mode, a folder. Hands on: the module, its Settings, and its errors in our words.
Never: is imported by anything but the child that holds the run, or shows the key.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sidecar.sinks.base import Unavailable

LOG_FLUSH_SECONDS = 0.5
"""wandb's own 15 s would lose as much to a kill."""
UPLOAD_SECONDS = 5.0
"""Rows are visible within ten seconds; wandb's own 15 s are not."""
FINISH_SECONDS = 20
HEAP_GROWTH_PERCENT = "30"
"""GOGC of wandb-core, which is a Go program: how much its heap may grow before the next collection. Go's default is
100. With 30 it holds 62 MiB instead of 77 after an outage of 7,200 rows, and takes 50 us more CPU for a row."""

PRIVATE = frozenset(
    {
        "console", "save_code", "disable_code", "disable_git", "disable_job_creation", "label_disable",
        "x_disable_meta", "x_disable_stats", "x_disable_machine_info", "host", "username", "email", "program",
        "program_relpath", "program_abspath", "x_executable",
    }
)  # fmt: skip
"""Settings without which wandb would read this machine."""

TROUBLES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("api key", "api_key", "401", "unauthorized"), "refused the key: check WANDB_API_KEY or run `wandb login`"),
    (("403", "permission", "forbidden"), "refused access to the project: check the entity and your rights"),
    (("invalid character '<'", "<html"), "was not reached, a web page answered: check the proxy, or WANDB_BASE_URL"),
    (("429", "rate limit"), "asks for patience, rows wait in the journal"),
    (("http 50", "error 50", "internal server"), "has trouble of its own, rows wait in the journal"),
    (
        ("timed out", "timeout", "deadline", "connect", "no such host", "name resolution", "lookup", "eof"),
        "cannot be reached, rows wait in the journal; check the network, or WANDB_BASE_URL",
    ),
)
"""What is in an error's text -> what W&B did, and the remedy. The first that fits counts."""


def load() -> Any:
    """The real library, in the last moment. Raises Unavailable for a stand-in or something broken."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # No crash reports with local variables to the vendor.
    os.environ["WANDB_SILENT"] = "true"
    os.environ["GOGC"] = HEAP_GROWTH_PERCENT  # wandb-core inherits it.
    try:
        import wandb
    except ImportError as error:
        raise Unavailable(f"wandb cannot be imported ({error}); pip install wandb") from None
    if not hasattr(wandb, "Settings") or hasattr(wandb, "__sidecar_stand_in__"):
        raise Unavailable(f"{getattr(wandb, '__file__', None) or sys.path[0]} is not the wandb library")
    return wandb


def settings(wandb: Any, options: Mapping[str, Any], mode: str, folder: str, stop: Callable[[], None]) -> Any:
    """Metrics only: nothing about the machine, the program or its user is read, stored or sent.

    ``stop`` is called, from a thread of wandb's, when it gave up uploading for good. Older versions lack some of the
    settings; those of PRIVATE they all have. Raises Unavailable when one does not."""
    asked = _asked(options, mode, folder, stop)
    known = wandb.Settings.model_fields
    if missing := PRIVATE - known.keys():
        raise Unavailable(f"this wandb cannot be kept from {', '.join(sorted(missing))}; pip install -U wandb")
    return wandb.Settings(**{name: value for name, value in asked.items() if name in known})


def _asked(options: Mapping[str, Any], mode: str, folder: str, stop: Callable[[], None]) -> dict[str, Any]:
    return dict(
        mode=mode,
        root_dir=folder,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        label_disable=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="",
        username="",
        email="",
        program="",
        program_relpath="",
        program_abspath="",
        x_executable="",
        docker="",
        silent=True,
        quiet=True,
        use_dot_wandb=False,
        init_timeout=float(options.get("init_seconds", 30.0)),
        finish_timeout=float(options.get("finish_seconds", FINISH_SECONDS)),
        finish_timeout_raises=True,
        stop_on_fatal_error=True,
        stop_fn=stop,
        x_transaction_log_flush_interval=LOG_FLUSH_SECONDS,
        **({"x_file_stream_transmit_interval": UPLOAD_SECONDS} | options.get("internal", {})),
    )


def server(wandb: Any) -> str | None:
    """The address that wandb is going to use, also out of its own files. None: this version does not say, or it goes
    through a proxy of its settings."""
    try:
        found = wandb.sdk.wandb_setup.singleton().settings
        return None if found.http_proxy or found.https_proxy else str(found.base_url)
    except AttributeError:
        return None


def explain(error: Exception, folder: str = "") -> str:
    """One line, with the remedy where we know it. Never the key."""
    text = " ".join(str(error).split())
    key = os.environ.get("WANDB_API_KEY", "")
    text = text.replace(key, "***") if len(key) > 8 else text
    lowered = text.lower()
    if getattr(error, "errno", None) == errno.ENOSPC or "no space left" in lowered:
        return no_space(folder)
    for words, remedy in TROUBLES:
        if any(word in lowered for word in words):
            return f"W&B {remedy} ({text[:160]})"
    return f"W&B: {type(error).__name__}: {text[:200]}"


def no_space(folder: str) -> str:
    return f"no space left for W&B's files in {folder}: free some, rows wait in the journal"
