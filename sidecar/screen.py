"""The screen of ``sidecar top``.

Given: a status, recent losses, a size. Hands on: lines of text that fit.
Never: prints, or passes on control characters in names that come from a trainer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.banner import clock, human

BARS = "▁▂▃▄▅▆▇█"
COLOURS = {"running": "32", "finished": "32", "stalled": "33", "failed": "31", "lost": "31"}

RANK_FIELDS = ("rank", "step", "state", "host")

Status = Mapping[str, Any]


def draw(
    status: Status, losses: Sequence[float], *, columns: int, rows: int, colour: bool, note: str = ""
) -> list[str]:
    """``note``: what is wrong with all of it, such as its age."""
    head = " ".join(str(status.get(key)) for key in ("project", "name", "stage", "run_id") if status.get(key))
    lines = [
        head,
        str(status.get("verdict") or status.get("state") or "no run yet"),
        note,
        _field("step", _step(status)),
        _field("loss", _loss(status)),
        _field("", sparkline(losses, columns - 12)),
        _field("speed", _speed(status)),
        _field("MFU", _mfu(status)),
        _field("ETA", _eta(status)),
        *(_field("ranks", line) for line in _ranks(status)),
        *(_field("gpu", line) for line in _gpus(status)),
        *(_field("sink", line) for line in _sinks(status)),
        *(_field("alert", str(alert.get("message"))) for alert in (status.get("alerts") or [])[:5]),
    ]
    shown = [fit(line, columns) for line in lines if line is not None][:rows]
    if colour and len(shown) > 1:
        shown[1] = f"\x1b[{COLOURS.get(str(status.get('state')), '0')}m{shown[1]}\x1b[0m"
    return shown


def sparkline(values: Sequence[float], width: int) -> str:
    """The last ``width`` values as bars; empty for none."""
    shown = list(values)[-max(width, 1) :]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def fit(line: str, columns: int) -> str:
    visible = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return visible if len(visible) <= columns else visible[: columns - 1] + "…"


def _field(label: str, text: str) -> str | None:
    return f"{label:<8} {text}" if text else None


def _step(status: Status) -> str:
    step, total = status.get("step"), status.get("total_steps")
    if step is None:
        return "-"
    text = f"{step}/{total} ({100 * step / total:.1f} %)" if total else str(step)
    age = status.get("last_step_age_seconds")
    return text + (f", {age:.0f} s ago" if age is not None else "")


def _loss(status: Status) -> str:
    parts = [str(status["loss_state"])] if status.get("loss_state") else []
    names = {"loss": "", "loss_smoothed": "smoothed ", "grad_norm": "gradient ", "learning_rate": "lr "}
    for key, name in names.items():
        if status.get(key) is not None:
            parts.append(f"{name}{status[key]:.4g}")
    validation = (status.get("val") or {}).get("loss")
    return ", ".join(parts + ([f"val {validation:.4g}"] if validation is not None else []))


def _speed(status: Status) -> str:
    units = (("tokens_per_second", "tokens/s"), ("samples_per_second", "samples/s"), ("steps_per_second", "steps/s"))
    parts = [f"{human(status[key])} {unit}" for key, unit in units if status.get(key) is not None]
    p99 = (status.get("step_time") or {}).get("p99_seconds")
    return ", ".join(parts + ([f"p99 {1000 * p99:.0f} ms a step"] if p99 is not None else []))


def _mfu(status: Status) -> str:
    mfu = status.get("mfu") or {}
    if mfu.get("percent") is None:
        return str(mfu.get("reason") or "")
    return f"{mfu['percent']:.1f} % ({mfu.get('convention')}; peak {mfu.get('source')})"


def _eta(status: Status) -> str:
    eta = status.get("eta") or {}
    return clock(eta["seconds"]) if eta.get("seconds") is not None else str(eta.get("reason") or "")


def _ranks(status: Status) -> list[str]:
    ranks = status.get("ranks") or []
    if len(ranks) < 2:
        return []
    return ["  ".join(f"{key} {rank[key]}" for key in RANK_FIELDS if rank.get(key) is not None) for rank in ranks[:16]]


def _gpus(status: Status) -> list[str]:
    gpus = status.get("gpus") or []
    if not gpus:
        reason = (status.get("gpu") or {}).get("reason")
        return [str(reason)] if reason else []
    return [_gpu(gpu) for gpu in gpus[:16]]


def _gpu(gpu: Status) -> str:
    readings = (("utilization_percent", "{:.0f} %"), ("power_watts", "{:.0f} W"), ("temperature_celsius", "{:.0f} C"))
    parts = [form.format(gpu[key]) for key, form in readings if gpu.get(key) is not None]
    used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
    if used is not None and total:
        parts.append(f"{used / 2**30:.1f} of {total / 2**30:.0f} GiB")
    return f"{gpu.get('index')} {gpu.get('name')}: " + ", ".join(parts)


def _sinks(status: Status) -> list[str]:
    lines = []
    for name, sink in (status.get("sinks") or {}).items():
        behind = f", {sink['lag_events']} rows behind" if sink.get("lag_events") else ""
        lines.append(f"{name}: {sink.get('state')}{behind}" + (f" ({sink['reason']})" if sink.get("reason") else ""))
    return lines
