"""The card printed when training has ended: at most twenty lines, in plain words.

Given: the run's last status, its first loss, where its data is. Hands on: lines of text.
Never: prints by itself, or makes up a number that is not known.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from sidecar.banner import clock, human, sink_lines
from sidecar.command_end import in_words
from sidecar.config import Config

LINES_MAX = 20


def card(
    config: Config, status: Mapping[str, Any], first_loss: float | None, sync: str | None, exit_code: int = 0
) -> list[str]:
    """``sync`` is the command that sends what is unsent, if anything is. ``exit_code``: the training command's."""
    rows = [
        ("run", _title(status)),
        ("verdict", status.get("verdict")),
        ("command", in_words(exit_code) if exit_code else ""),
        ("steps", _steps(status)),
        ("tokens", _tokens(status)),
        ("speed", _speed(status)),
        ("MFU", _mfu(status)),
        ("loss", _loss(status, first_loss)),
        ("val loss", _value((status.get("val") or {}).get("loss"))),
        ("goodput", _goodput(status)),
        ("alerts", _alerts(status)),
        ("lost", _lost(status)),
        *(("sink", line) for line in sink_lines(config, status, None)),
        ("data", _data(config, status)),
        ("export", _command("export", str(status.get("run_id", "latest")), config) + " --format csv -o run.csv"),
        ("sync", sync),
    ]
    lines = [f"{label:<8} {text}" for label, text in rows if text]
    return lines[:LINES_MAX]


def sync_command(config: Config, run_id: str, status: Mapping[str, Any]) -> str | None:
    """The command that sends to W&B what it has not got yet; None when it has everything. It reads the journal, so
    that nothing arrives twice: `wandb sync` would send again what was written offline and has arrived since."""
    health = (status.get("sinks") or {}).get("wandb")
    all_sent = health and health.get("state") == "ok" and health.get("lag_events") == 0
    if not health or all_sent or health.get("state") == "disabled":
        return None
    return _command("sync", run_id, config)


def _command(name: str, run_id: str, config: Config) -> str:
    """A command line to paste into a shell."""
    return f"sidecar {name} {shlex.quote(run_id)} --dir {shlex.quote(config.dir)}"


def _title(status: Mapping[str, Any]) -> str:
    words = [status.get("run_id"), status.get("project"), status.get("name"), status.get("stage")]
    return "  ".join(str(word) for word in words if word)


def _steps(status: Mapping[str, Any]) -> str:
    step, total, elapsed = status.get("step"), status.get("total_steps"), status.get("elapsed_seconds")
    if step is None:
        return "none"
    done = status.get("steps_total") or step
    text = f"{done}" + (f" of {total}" if total else "")
    return text + (f" in {clock(elapsed)}" if elapsed is not None else "") + f", last step {step}"


def _tokens(status: Mapping[str, Any]) -> str:
    tokens = status.get("tokens")
    return f"{tokens} ({human(tokens)})" if tokens is not None else ""


def _speed(status: Mapping[str, Any]) -> str:
    tokens, seconds, window = status.get("tokens"), status.get("training_seconds"), status.get("tokens_per_second")
    mean = tokens / seconds if tokens is not None and seconds else None
    parts = [f"{human(mean)} tokens/s over the run" if mean else "", f"{human(window)} at the end" if window else ""]
    return ", ".join(part for part in parts if part)


def _mfu(status: Mapping[str, Any]) -> str:
    mfu = status.get("mfu") or {}
    if mfu.get("percent") is None:
        return f"unknown: {mfu['reason']}" if mfu.get("reason") else "unknown"
    mean = _mean_mfu(status)
    text = f"{mean:.1f} % over the run, {mfu['percent']:.1f} % at the end" if mean else f"{mfu['percent']:.1f} %"
    text += f" ({mfu.get('convention') or 'full attention'})"
    if mfu.get("causal_percent") is not None:
        text += f", {mfu['causal_percent']:.1f} % causal"
    peak = (mfu.get("denominator") or {}).get("peak_flops_per_device")
    if peak:
        text += f"; of {human(peak)}FLOP/s a device, {mfu.get('source') or 'unknown source'}"
    return text


def _mean_mfu(status: Mapping[str, Any]) -> float | None:
    """Percent over the whole run: all FLOPs over all time in steps. The status only has the latest window."""
    denominator = (status.get("mfu") or {}).get("denominator") or {}
    peak, devices = denominator.get("peak_flops_per_device"), denominator.get("devices")
    flops, seconds = status.get("flops"), status.get("training_seconds")
    if not (peak and devices and flops and seconds):
        return None
    return float(100 * flops / (seconds * peak * devices))


def _loss(status: Mapping[str, Any], first: float | None) -> str:
    last = status.get("loss_state") or status.get("loss")
    if last is None:
        return ""
    return f"{_value(first)} -> {_value(last)}" if first is not None else _value(last)


def _goodput(status: Mapping[str, Any]) -> str:
    goodput = status.get("goodput") or {}
    if goodput.get("ratio") is None:
        return ""
    spent = sorted((goodput.get("seconds") or {}).items(), key=lambda item: -item[1])
    most = ", ".join(f"{state} {seconds:.1f} s" for state, seconds in spent[:4] if seconds >= 0.05)
    return f"{100 * goodput['ratio']:.0f} %" + (f" ({most})" if most else "")


def _alerts(status: Mapping[str, Any]) -> str:
    alerts = status.get("alerts") or []
    return "; ".join(str(alert.get("message") or alert.get("name")) for alert in alerts[:3])


def _lost(status: Mapping[str, Any]) -> str:
    lost = status.get("lost_events") or 0
    return f"{lost} events never arrived" if lost else ""


def _data(config: Config, status: Mapping[str, Any]) -> str:
    return str((status.get("sidecar") or {}).get("data_dir") or config.dir)


def _value(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
