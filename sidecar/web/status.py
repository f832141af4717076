"""What ``/status`` says: one object for machines, one screenful for people, the same content.

Given: a published snapshot, telemetry, the list of runs, the time. Hands on: structs, JSON bytes, plain text.
Never: computes a training number (derive/ did), or shows a control or bidirectional character of somebody's name.
"""

import datetime
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sidecar.snapshot import GpuState, RunSnapshot, RunSummary
from sidecar.telemetry import SinkHealth, Telemetry

RUNS_MAX = 200
TEXT_WIDTH = 100
DASH = "–"
UNKNOWN = "not known yet"
WAITING = "Waiting for a training run."


class Latency(msgspec.Struct):
    """Of the latest (at most 512) events, seconds."""

    p50_seconds: float | None = None
    p99_seconds: float | None = None


class SinkView(msgspec.Struct):
    state: str
    """starting | ok | offline | paused | failing | disabled"""
    reason: str | None = None
    url: str | None = None
    lag_events: int | None = None
    """Journal rows not yet delivered; None: not known yet, or nothing will be delivered."""
    lag_seconds: float | None = None
    failures: int = 0
    restarts: int = 0
    dead_letters: int = 0
    lost_rows: int = 0
    """Removed from the journal, at its bound, before this sink had them."""
    delivered_rows: int = 0
    last_success_age_seconds: float | None = None
    latency: Latency = msgspec.field(default_factory=Latency)


class CollectorView(msgspec.Struct):
    success: bool
    reason: str | None = None
    duration_seconds: float = 0.0


class JournalView(msgspec.Struct):
    state: str = "ok"
    reason: str | None = None
    bytes: int | None = None
    commits_total: int = 0
    commit_failures_total: int = 0


class SidecarView(msgspec.Struct):
    version: str = ""
    pid: int = 0
    launcher_pid: int | None = None
    """Of the `sidecar run` that it ends with; null under `sidecar serve`."""
    uptime_seconds: float | None = None
    data_dir: str = ""
    http: str | None = None
    events: str = ""
    events_total: int = 0
    scrapes_total: int = 0
    """How often /metrics was served: `sidecar run` waits at the end for one more by a scraper that was there."""
    events_lost_total: int = 0
    events_lost: dict[str, int] = {}
    frames_total: int = 0
    frames_rejected: dict[str, int] = {}
    duplicates_total: int = 0
    streams: int = 0
    rings_recovered_total: int = 0
    rings_refused: dict[str, int] = {}
    intake_latency: Latency = msgspec.field(default_factory=Latency)
    journal: JournalView = msgspec.field(default_factory=JournalView)
    collectors: dict[str, CollectorView] = {}


class Status(RunSnapshot, kw_only=True):
    """The whole of /status. Before any run: run_id is null and state is "waiting"."""

    sinks: dict[str, SinkView] = {}
    sidecar: SidecarView = msgspec.field(default_factory=SidecarView)
    runs: list[RunSummary] = []


LIVE_STATES = ("waiting", "starting", "running", "stalled")
"""Of a run that has ended, the GPUs are those of its last reading."""

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON; NaN and infinities become null."""
    return _encoder.encode(value)


def compose(snapshot: RunSnapshot | None, telemetry: Telemetry, runs: Sequence[RunSummary], *, now_ns: int) -> Status:
    """The run's snapshot with the sidecar's own health and the other runs beside it."""
    if snapshot is None:
        status = Status(run_id=None, state="waiting", verdict=WAITING)  # type: ignore[arg-type]
    else:
        status = Status(**{field: getattr(snapshot, field) for field in RunSnapshot.__struct_fields__})
    gpus = telemetry.collectors.get("nvml")
    if gpus is not None and status.state in LIVE_STATES:
        status.gpu = GpuState(gpus.success, gpus.reason)  # The collector knows why there is none; a reading cannot say.
    status.sinks = {name: _sink(health, now_ns) for name, health in sorted(dict(telemetry.sinks).items())}
    status.sidecar = _sidecar(telemetry, now_ns)
    status.runs = list(runs)
    return status


def summaries(entries: Iterable[RunSummary]) -> list[RunSummary]:
    """Runs as the API lists them (without their paths), newest first, at most RUNS_MAX."""
    listed = [msgspec.convert(run, RunSummary, from_attributes=True) for run in entries]
    listed.sort(key=lambda run: run.order_ns, reverse=True)
    return listed[:RUNS_MAX]


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """Nearest-rank percentile; None when there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else None


def _latency(values: Sequence[float]) -> Latency:
    return Latency(percentile(values, 0.5), percentile(values, 0.99))


def _sink(health: SinkHealth, now_ns: int) -> SinkView:
    succeeded = health.last_success_ns
    return SinkView(
        state=health.state, reason=health.reason, url=health.url, lag_events=health.lag_events,
        lag_seconds=health.lag_seconds, failures=health.failures_total, restarts=health.restarts_total,
        dead_letters=health.dead_letters_total, lost_rows=health.lost_rows_total, delivered_rows=health.delivered_rows,
        last_success_age_seconds=None if succeeded is None else max(0.0, (now_ns - succeeded) / 1e9),
        latency=_latency(list(health.latency_seconds)),
    )


def _sidecar(telemetry: Telemetry, now_ns: int) -> SidecarView:
    journal = telemetry.journal
    started = telemetry.started_ns
    return SidecarView(
        version=telemetry.version, pid=telemetry.pid, launcher_pid=telemetry.launcher_pid,
        data_dir=telemetry.data_dir, http=telemetry.http_url,
        uptime_seconds=max(0.0, (now_ns - started) / 1e9) if started else None, events=telemetry.events_endpoint,
        scrapes_total=telemetry.scrapes_total, events_total=telemetry.events_total,
        events_lost_total=sum(dict(telemetry.events_lost_total).values()),
        events_lost=dict(telemetry.events_lost_total), frames_total=telemetry.frames_total,
        frames_rejected=dict(telemetry.frames_rejected_total), duplicates_total=telemetry.duplicates_total,
        streams=telemetry.streams, rings_recovered_total=telemetry.rings_recovered_total,
        rings_refused=dict(telemetry.rings_refused_total),
        intake_latency=_latency(list(telemetry.intake_latency_seconds)),
        journal=JournalView(journal.state, journal.reason, journal.bytes, journal.commits_total,
                            journal.commit_failures_total),
        collectors={name: CollectorView(collector.success, collector.reason, collector.duration_seconds)
                    for name, collector in sorted(dict(telemetry.collectors).items())},
    )


def schema() -> dict[str, Any]:
    """JSON Schema of /status, self-contained."""
    document = msgspec.json.schema(Status)
    null_before_any_run(document["$defs"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def null_before_any_run(definitions: dict[str, Any]) -> None:
    """Say so of run_id. Overriding the field would move it from the first place of the object to the last."""
    status = definitions["Status"]
    status["properties"]["run_id"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def clean(text: str, width: int = 200) -> str:
    """One printable line: control, format and bidirectional characters and stacked marks become visible or go."""
    shown, marks = [], 0
    for char in text[: 4 * width]:
        category = unicodedata.category(char)
        marks = marks + 1 if category.startswith("M") else 0
        if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            shown.append("�" if category != "Cf" else "")
        elif marks <= 2:
            shown.append(char)
    line = "".join(shown)
    return line if len(line) <= width else line[: width - 1] + "…"


def to_text(status: Status) -> str:
    """A screenful for a terminal. The first line is the verdict; nothing unknown is shown as a number."""
    lines = [clean(status.verdict), ""]
    if status.run_id is not None:
        lines += _run_lines(status)
    lines += _sink_lines(status)
    lines.append(_line("sidecar", f"{status.sidecar.version or DASH}, pid {status.sidecar.pid or DASH}, "
                       f"{status.sidecar.events_total:,} events, {status.sidecar.events_lost_total:,} lost, "
                       f"journal {status.sidecar.journal.state}"))
    others = [run for run in status.runs if run.run_id != status.run_id]
    if others:
        shown = ", ".join(f"{run.run_id} ({run.state})" for run in others[:3])
        lines.append(_line("other runs", f"{shown}{', ...' if len(others) > 3 else ''}   ?run=ID shows one"))
    return "\n".join(lines) + "\n"


def _run_lines(status: Status) -> list[str]:
    mfu = status.mfu
    known = mfu.percent is not None
    percent = f"{mfu.percent:.1f} % {mfu.convention}" if known else f"{DASH} ({mfu.reason or UNKNOWN})"
    denominator = f", peak {mfu.source}" if mfu.percent is not None and mfu.source else ""
    loss = status.loss_state or _loss(status.loss)
    eta = duration(status.eta.seconds) if status.eta.seconds is not None else f"{DASH} ({status.eta.reason or UNKNOWN})"
    lines = [
        _line("run", " ".join(filter(None, (status.run_id, status.project, status.name, status.stage, status.state)))),
        _line("step", f"{_count(status.step)} of {_count(status.total_steps)}   {_last_step(status)}   "
              f"elapsed {duration(status.elapsed_seconds)}   ETA {eta}"),
        _line("loss", f"{loss}   smoothed {_loss(status.loss_smoothed)}   learning rate "
              f"{_number(status.learning_rate, '.3g')}   gradient norm "
              f"{status.grad_norm_state or _number(status.grad_norm, '.3g')}"),
    ]
    if status.val:
        lines.append(_line("validation", "   ".join(_validation(status))))
    lines += [
        _line("speed", f"{_count(status.tokens_per_second)} tokens/s   step p50 "
              f"{duration(status.step_time.p50_seconds)} p95 {duration(status.step_time.p95_seconds)}   "
              f"tokens {_count(status.tokens)}"),
        _line("mfu", percent + denominator),
    ]
    if status.goodput.ratio is not None:
        spent = "  ".join(f"{k} {duration(v)}" for k, v in status.goodput.seconds.items() if v)
        lines.append(_line("goodput", f"{status.goodput.ratio:.1%}   {spent}"))
    if len(status.ranks) > 1:
        states = [rank.state for rank in status.ranks]
        lines.append(_line("ranks", ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))))
    if status.dataset.mixture:
        parts = (f"{k} {v.ratio:.0%}" for k, v in list(status.dataset.mixture.items())[:8] if v.ratio is not None)
        lines.append(_line("data", "  ".join(parts)))
    lines += _hardware_lines(status)
    lines += [_line(alert.severity, alert.message) for alert in status.alerts if alert.active][:5]
    return lines


def _hardware_lines(status: Status) -> list[str]:
    lines = []
    for gpu in status.gpus[:8]:
        used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
        lines.append(_line(f"gpu {gpu.get('index', 'not known yet')}", "   ".join((
            str(gpu.get("name") or gpu.get("uuid") or ""), f"{_number(gpu.get('utilization_percent'), '.0f')} %",
            f"{_bytes(used)} of {_bytes(total)}", f"{_number(gpu.get('power_watts'), '.0f')} W",
            f"{_number(gpu.get('temperature_celsius'), '.0f')} °C"))))
    if not status.gpus:
        lines.append(_line("gpu", f"none ({status.gpu.reason or 'no reading yet'})"))
    if status.host:
        lines.append(_line("host", f"cpu {_number(status.host.get('cpu_percent'), '.0f')} %   memory "
                           f"{_bytes(status.host.get('memory_used_bytes'))} of "
                           f"{_bytes(status.host.get('memory_total_bytes'))}"))
    return lines


def _sink_lines(status: Status) -> list[str]:
    if not status.sinks:
        return [_line("sinks", "none")]
    return [_line(clean(name, 20), "   ".join(filter(None, (
        sink.state, sink.reason, f"{sink.lag_events:,} rows behind" if sink.lag_events else None, sink.url))))
        for name, sink in status.sinks.items()]


def _line(label: str, text: str) -> str:
    return f"{label:<12} {clean(text, TEXT_WIDTH * 2)}"


def _last_step(status: Status) -> str:
    """How old the last step is; of a run that has ended, when that was: its ages stand still."""
    if status.state in LIVE_STATES:
        return f"last step {duration(status.last_step_age_seconds)} ago"
    if status.started_ns is None or status.elapsed_seconds is None:
        return "ended"
    ended = datetime.datetime.fromtimestamp(status.started_ns / 1e9 + status.elapsed_seconds, datetime.UTC)
    return f"ended {ended:%Y-%m-%d %H:%M:%S} UTC"


def _validation(status: Status) -> list[str]:
    states = {name: metric.state for name, metric in status.metrics.items()}
    shown = list(status.val.items())[:6]
    return [f"{name} {states.get(f'val/{name}') or _number(value, '.4g')}" for name, value in shown]


def _loss(value: float | None) -> str:
    """Four decimals where these say something: a loss of 3.2e-05 is not 0.0000."""
    return _number(value, ".4f" if value is not None and 0.01 <= abs(value) < 1e5 else ".4g")


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else DASH


def _count(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _bytes(value: Any) -> str:
    return f"{value / 2**30:.1f} GiB" if isinstance(value, int | float) else DASH


def duration(seconds: float | None) -> str:
    """Seconds for people: 3 ms, 1.2 s, 4 min 05 s, 3 h 20 min, 2 d 4 h; a dash for unknown."""
    if seconds is None or seconds != seconds:
        return DASH
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = datetime.timedelta(seconds=round(min(seconds, 1e11)))
    hours, rest = divmod(whole.seconds, 3600)
    if whole.days:
        return f"{whole.days:,} d {hours} h"
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s"
