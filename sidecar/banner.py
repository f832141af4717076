"""The lines printed before and during training.

Given: a configuration, where the sidecar is, a status. Hands on: lines of text, six for the banner.
Never: prints by itself, uses a control character, or shows a secret unless told that its owner reads along.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sidecar.config import Config
from sidecar.live import Live


def banner(
    config: Config, live: Live, run_id: str, sinks: list[str], *, ours: bool, environ: Mapping[str, str],
    token: bool = False,
) -> list[str]:
    """At most six lines: run, store, page, metrics, sinks, how to stop. ``token``: show the token, to its owner."""
    return [
        f"run      {run_id}",
        f"store    {config.dir}",
        f"page     {_page(config, live, environ, token, ours)}",
        f"metrics  {live.http.rstrip('/')}/metrics",
        f"sinks    {'; '.join(sinks) if sinks else 'none (--sink wandb,tensorboard adds some)'}",
        f"stop     {_how_to_stop(config, live, ours)}",
    ]


def serving(config: Config, live: Live, *, token: bool = False) -> list[str]:
    """What `sidecar serve` says once it is ready: five lines."""
    return [
        f"store    {config.dir}",
        f"events   {live.events}",
        f"page     {_page(config, live, os.environ, token, ours=True)}",
        f"metrics  {live.http.rstrip('/')}/metrics",
        f"stop     Ctrl-C, or kill {live.pid}",
    ]


def _page(config: Config, live: Live, environ: Mapping[str, str], token: bool, ours: bool) -> str:
    """The token goes after the #, which a browser never sends to a server: the page's script reads it there."""
    page = live.http.rstrip("/") + "/"
    port = page.rstrip("/").rpartition(":")[2]
    if config.token:
        page += f"#token={quote(config.token, safe='') if token else '***'}"
    if ours and config.port and str(config.port) != port:  # One that was there before was given its own port.
        page += f"   (port {config.port} was taken)"
    if environ.get("SSH_CONNECTION"):
        page += f"   (from your machine: ssh -L {port}:127.0.0.1:{port} {os.uname().nodename})"
    return page


def _how_to_stop(config: Config, live: Live, ours: bool) -> str:
    if not ours:
        return f"Ctrl-C ends the training; the sidecar was there before (pid {live.pid}) and is left alone"
    if config.keep:
        return f"Ctrl-C ends the training; the sidecar stays: kill {live.pid}"
    return "Ctrl-C ends the training; the sidecar ends by itself after it"


def sink_lines(config: Config, status: Mapping[str, Any], environ: Mapping[str, str] | None) -> list[str]:
    """Each sink with its state and reason, as the sidecar reports them or, before a run, as the settings imply.

    ``environ`` is None after a run: what has not started by then did not.
    """
    found = status.get("sinks") or {}
    names = list(dict.fromkeys([*config.sinks, *found]))
    return [_sink(name, found.get(name), config, environ) for name in names]


def _sink(
    name: str, health: Mapping[str, Any] | None, config: Config, environ: Mapping[str, str] | None
) -> str:
    if health and health.get("state") not in (None, "starting"):
        state, reason = str(health["state"]), str(health.get("reason") or "").removeprefix(f"{health['state']}: ")
        link = f" {health['url']}" if health.get("url") else ""
        return f"{name}: {state}" + (f" ({reason})" if reason else "") + link
    if environ is None:
        idle = health is not None and health.get("lag_events") == 0
        return f"{name}: {'had nothing to send' if idle else 'did not start'}"
    if name == "wandb":
        from sidecar.sinks.wandb_account import choose_mode

        choice = choose_mode({"mode": config.wandb_mode}, environ)
        return f"wandb: {choice.reason or choice.mode}"
    return f"{name}: starts with the run"


def links(status: Mapping[str, Any]) -> list[str]:
    """Where sinks show this run, e.g. ``W&B initialized: project/run https://...``; empty until known."""
    found = (status.get("sinks") or {}).items()
    return [
        f"{health.get('reason') or name} {health['url']}"
        for name, health in found
        if health.get("url") and health.get("state") == "ok"
    ]


def progress(status: Mapping[str, Any]) -> str | None:
    """One line on how training goes; None before the first step."""
    if status.get("step") is None:
        return None
    parts = [_step(status)]
    for text in (_loss(status), _rate(status), _mfu(status), _eta(status)):
        if text:
            parts.append(text)
    if status.get("state") in ("stalled", "failed", "lost"):
        parts.append(str(status.get("verdict") or status["state"]))
    return "sidecar: " + " | ".join(parts)


def _step(status: Mapping[str, Any]) -> str:
    step, total = status["step"], status.get("total_steps")
    return f"step {step}" + (f"/{total} ({100 * step / total:.0f} %)" if total else "")


def _loss(status: Mapping[str, Any]) -> str:
    if status.get("loss_state"):
        return f"loss {status['loss_state']}"
    return f"loss {status['loss']:.4g}" if status.get("loss") is not None else ""


def _rate(status: Mapping[str, Any]) -> str:
    rate = status.get("tokens_per_second")
    return f"{human(rate)} tokens/s" if rate is not None else ""


def _mfu(status: Mapping[str, Any]) -> str:
    percent = (status.get("mfu") or {}).get("percent")
    return f"MFU {percent:.1f} %" if percent is not None else ""


def _eta(status: Mapping[str, Any]) -> str:
    seconds = (status.get("eta") or {}).get("seconds")
    return f"ETA {clock(seconds)}" if seconds is not None and status.get("state") == "running" else ""


def human(number: float) -> str:
    """12345 as 12.3k: three digits and a letter."""
    size = float(number)
    for letter in ("", "k", "M", "G", "T", "P"):
        if abs(size) < 999.5:
            return f"{size:.3g}{letter}" if letter or size != int(size) else f"{size:.0f}"
        size /= 1000
    return f"{size:.3g}E"


def clock(seconds: float) -> str:
    """3725 as 1:02:05, 65 as 1:05."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
