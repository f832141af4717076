"""What ``/status`` says of a run.

Given: a RunState and the time. Hands on: a RunSnapshot, sharing nothing that the fold will change.
Never: changes the state. It is called a few times a second and may sort a window; the fold may not.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sidecar.derive import goodput, mixture, progress, smoothing, stalls, throughput
from sidecar.derive.latest import latest_of
from sidecar.derive.verdict import verdict
from sidecar.metrics import ALIASES, unit_of
from sidecar.snapshot import (
    Alert,
    DatasetsView,
    DatasetView,
    Eta,
    Goodput,
    GpuState,
    MetricValue,
    Mfu,
    MfuDenominator,
    PhaseTime,
    Progress,
    RankView,
    RunSnapshot,
    StepHistogram,
    StepTime,
)
from sidecar.state import ENDS, LIVE, STEP_BOUNDS, Gpu, RankState, RunState, current_ranks, exit_code_of

SPEED_UNKNOWN = "two steps are needed to know the speed"


def snapshot(state: RunState, *, now_ns: int) -> RunSnapshot:
    """``now_ns``: the sidecar's wall clock, on which records were received."""
    lead = state.ranks.get(state.lead) if state.lead is not None else None
    out = RunSnapshot(
        state.run_id, state.project, state.name, state.stage, state.group, list(state.tags),
        started_at=_iso(state.started_ns), started_ns=state.started_ns or None,
        last_started_ns=max((rank.started_ns for rank in state.ranks.values()), default=state.started_ns) or None,
        total_steps=state.total_steps, config=dict(state.config), model_facts=dict(state.facts),
        summary=dict(state.summary),
        notes=state.notes, entity=state.entity, world_size=state.world_size, events=state.events,
    )
    durations = throughput.step_seconds(state.window)
    late_seconds = _liveness(out, state, lead, now_ns, stalls.slow_step_seconds(durations))
    _learning(out, state)
    _speed(out, state, durations)
    _counters(out, state)
    out.mfu = _mfu(out, state)
    out.eta = _eta(out, state, late_seconds)
    _latest_values(out, state, now_ns)
    _hardware(out, state)
    out.ranks = [_rank(rank, now_ns) for rank in sorted(current_ranks(state), key=lambda rank: rank.rank)]
    out.dataset = _datasets(state)
    _alerts(out, state)
    out.verdict = verdict(out, late_seconds)
    return out


def finite(value: Any) -> tuple[Any, str | None]:
    """The value and None, or None and nan | inf | -inf."""
    if type(value) is float and not math.isfinite(value):
        return None, "nan" if value != value else "inf" if value > 0 else "-inf"
    return value, None


def _iso(time_ns: int) -> str | None:
    try:
        at = datetime.fromtimestamp(time_ns / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time_ns > 0 else None


def _age(now_ns: int, then_ns: int | None) -> float | None:
    return max(0.0, (now_ns - then_ns) / 1e9) if then_ns is not None else None


def _liveness(
    out: RunSnapshot, state: RunState, lead: RankState | None, now_ns: int, slow_step_seconds: float | None
) -> float | None:
    """Returns how long there was no step, if its end is overdue and it is no stall yet."""
    late_seconds = None
    ranks = current_ranks(state)
    live = [rank for rank in ranks if rank.state in LIVE]
    stepping = [rank for rank in ranks if rank.last_step_received_ns is not None]
    out.last_step_age_seconds = _age(now_ns, max((r.last_step_received_ns or 0 for r in stepping), default=None))
    out.last_step_ns = max((r.last_step_ns for r in stepping if r.last_step_ns is not None), default=None)
    if not ranks:
        out.state = "starting"
    elif live:
        begun = [rank for rank in live if rank.reached >= 0]
        # Once one rank has made a step, ranks that make none (they only log) are no sign of life.
        silence_seconds = min(_age(now_ns, _progress_ns(rank)) or 0.0 for rank in begun or live)
        # The longest limit counts: a rank inside an evaluation makes the others wait for it.
        waited_for = [rank for rank in live if rank.reached >= 0 or rank.open_phases] if begun else live
        out.stall_limit_seconds = max(stalls.limit_seconds(state, slow_step_seconds, rank) for rank in waited_for)
        out.phase = next((rank.open_phases[0][0] for rank in live if rank.open_phases), None)
        stalled = silence_seconds > out.stall_limit_seconds
        out.state = "stalled" if stalled else "running" if begun else "starting"
        usual = [stalls.overdue_seconds(slow_step_seconds, rank) for rank in waited_for]
        if not stalled and all(limit is not None and silence_seconds > limit for limit in usual):
            late_seconds = out.last_step_age_seconds
    else:
        states = {rank.state for rank in ranks}
        out.state = next(word for word in ENDS if word in states)
        out.exit_code = exit_code_of(state)
    _time_spent(out, state, lead, now_ns)
    return late_seconds


def _progress_ns(rank: RankState) -> int:
    """When it last ended a step or left a phase; before its first step, when it last spoke."""
    spoke_ns = rank.last_received_ns if rank.reached < 0 else 0
    return max(rank.last_step_received_ns or 0, rank.phase_left_received_ns or 0, spoke_ns)


def _time_spent(out: RunSnapshot, state: RunState, lead: RankState | None, now_ns: int) -> None:
    """Goodput is read from the lowest rank's ledger; the time since its last record belongs to what it is doing now."""
    if lead is None:
        if state.greeted:
            out.elapsed_seconds = _age(now_ns, state.greeted_ns)
            out.goodput = Goodput(None, {"init": out.elapsed_seconds or 0.0})
        return
    seconds = goodput.ledger_seconds(lead)
    tail = _age(now_ns, lead.last_received_ns) or 0.0
    if lead.state in LIVE:
        _charge(out, seconds, lead, tail)
    elif lead.state == "lost" and state.alive:
        seconds["down"] += tail
    out.elapsed_seconds = sum(seconds.values())
    out.goodput = Goodput(None, seconds)
    if out.elapsed_seconds > 0 and lead.steps_total:
        out.goodput.ratio = seconds["step_productive"] / out.elapsed_seconds
    out.phases = {
        name: PhaseTime(phase.seconds_total, phase.seconds_last, phase.count) for name, phase in lead.phases.items()
    }


def _charge(out: RunSnapshot, seconds: dict[str, float], lead: RankState, tail: float) -> None:
    """Charges the time that is not in the ledger yet as if the step ended now, so that counters never go back."""
    own = lead.open_ns / 1e9
    if lead.open_phases:
        seconds[goodput.STATES.get(lead.open_phases[0][0], "unknown")] += tail
    else:
        own += tail
    if lead.reached < 0:
        seconds["init"] += own
        return
    excess = max(0.0, own - (out.stall_limit_seconds or own))
    seconds["stalled"] += excess
    seconds["redone" if lead.reached < lead.reached_before else "step_productive"] += own - excess


def _learning(out: RunSnapshot, state: RunState) -> None:
    ranks = current_ranks(state)
    if state.step is not None and not any(rank.state in LIVE for rank in ranks):
        out.step = state.step
    else:
        out.step = max((rank.reached for rank in ranks if rank.reached >= 0), default=state.step)
    latest, _ = latest_of(state)
    out.loss, out.loss_state = finite(_number(state.loss if state.loss is not None else latest.get("train/loss")))
    out.loss_smoothed = smoothing.smoothed(state)
    has_perplexity = smoothing.has_perplexity(state)
    if out.loss is not None and has_perplexity:
        out.perplexity = finite(smoothing.perplexity(out.loss))[0]
    out.learning_rate = finite(_number(latest.get("train/learning_rate")))[0]
    out.grad_norm, out.grad_norm_state = finite(_number(latest.get("train/grad_norm")))
    out.epoch = finite(state.epoch)[0]
    out.val = {name[4:]: finite(value)[0] for name, value in latest.items()
               if name.startswith("val/") and type(value) in (int, float)}
    for alias, name in ALIASES.items():
        if name.startswith("val/") and alias in latest:
            out.val.setdefault(name[4:], finite(_number(latest[alias]))[0])
    loss = out.val.get("loss")
    if loss is not None and has_perplexity:
        out.val.setdefault("perplexity", finite(smoothing.perplexity(loss))[0])


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) else None


def _sent(state: RunState, name: str) -> float | None:
    return _number(state.recent.get(name, state.latest.get(name)))


def _value(state: RunState, name: str) -> Any:
    """The value derived at the last step, else the one that the trainer sent."""
    return finite(state.derived[name] if name in state.derived else _sent(state, name))[0]


def _speed(out: RunSnapshot, state: RunState, durations: list[float]) -> None:
    for field in ("tokens_per_second", "samples_per_second", "steps_per_second", "flops_per_second"):
        value = _value(state, f"train/{field}")
        # Nothing moves: the rate is known to be zero.
        setattr(out, field, 0.0 if value is not None and out.state in ("stalled", "lost") else value)
    if durations:
        out.step_time = StepTime(
            math.fsum(durations) / len(durations),
            *(throughput.percentile(durations, share) for share in (0.5, 0.95, 0.99)),
        )
    out.step_histogram = StepHistogram(list(STEP_BOUNDS), list(state.histogram), state.histogram_seconds)
    derived = state.derived
    out.progress = Progress(derived.get("progress/step_percent"), derived.get("progress/epoch_percent"),
                            _value(state, "system/epoch_time"))


def _counters(out: RunSnapshot, state: RunState) -> None:
    if state.has_tokens:
        out.tokens, out.tokens_total = state.tokens, state.tokens_total
    if state.has_samples:
        out.samples, out.samples_total = state.samples, state.samples_total
    if state.has_loss_tokens:
        out.loss_tokens = state.loss_tokens
    out.flops = _value(state, "train/flops_total")
    if state.flops_total:
        out.flops_total = state.flops_total
    out.training_seconds = state.training_ns / 1e9 if state.steps_seen else None
    out.steps_total = state.steps_total
    out.rework_steps, out.restarts = state.rework_steps, state.restarts
    out.checkpoints_total = state.checkpoints_total
    out.lost_events = state.lost_events
    rejected = dict(state.rejected)
    for rank in state.ranks.values():
        for totals in (rank.rejected, rank.rejected_before):
            for reason, total in totals.items():
                rejected[reason] = rejected.get(reason, 0) + total
    out.rejected = rejected


def _mfu(out: RunSnapshot, state: RunState) -> Mfu:
    model = state.model
    convention = "FLOPs of each step as given by the trainer" if state.has_flops else model.convention
    mfu = Mfu(convention=convention, source=model.peak_source)
    devices = state.devices if state.steps_seen else state.alive or None
    mfu.denominator = MfuDenominator(model.peak_flops, devices, model.dtype, model.device_name)
    mfu.reported_percent = finite(_sent(state, "train/mfu_reported"))[0]
    if model.peak_flops is None:
        mfu.reason = model.peak_reason
    elif model.flops_per_token is None and not state.has_flops:
        mfu.reason = model.flops_reason
    elif not state.has_tokens and not state.has_flops:
        mfu.reason = "tokens are not known: give step(tokens=)"
    else:
        mfu.percent = _value(state, "train/mfu_percent")
        mfu.causal_percent = _value(state, "train/mfu_causal_percent")
        if out.state in ("stalled", "lost"):
            mfu.percent = 0.0 if mfu.percent is not None else None
            mfu.causal_percent = 0.0 if mfu.causal_percent is not None else None
        if mfu.percent is None:
            waiting = state.pending and not state.steps_seen
            mfu.reason = "waiting for the other ranks" if waiting else SPEED_UNKNOWN
        else:
            mfu.value = mfu.percent / 100
            mfu.causal_value = mfu.causal_percent / 100 if mfu.causal_percent is not None else None
            if mfu.value > 1:
                mfu.reason = "above 100 %: the peak, the FLOPs per token or the token count is wrong"
    return mfu


def _eta(out: RunSnapshot, state: RunState, late_seconds: float | None) -> Eta:
    if out.state in ("finished", "failed"):
        return Eta(reason=f"the run has {out.state}")
    if not state.total_steps:
        return Eta(reason="total_steps is not known")
    if state.steps_seen < progress.ETA_STEPS_MIN or state.step is None:
        return Eta(reason=f"known after {progress.ETA_STEPS_MIN} steps")
    if out.state in ("stalled", "lost"):
        return Eta(reason=f"the run is {out.state}")
    if not out.steps_per_second:
        return Eta(reason=SPEED_UNKNOWN)
    if late_seconds is not None:
        return Eta(reason=f"the next step is overdue: none for {late_seconds:.0f} s")
    seconds = progress.remaining_steps(state, state.step, state.total_steps) / out.steps_per_second
    return Eta(seconds, seconds / 60, seconds / 3600)


def _latest_values(out: RunSnapshot, state: RunState, now_ns: int) -> None:
    metrics = {}
    latest, latest_at = latest_of(state)
    for name, value in latest.items():
        step, time_ns, _ = latest_at[name]
        shown, condition = finite(value)
        metrics[name] = MetricValue(shown, condition, step, _age(now_ns, time_ns), unit_of(name))
    age = _age(now_ns, out.last_step_ns)
    for name, value in state.derived.items():
        shown, condition = finite(value)
        metrics[name] = MetricValue(shown, condition, state.step, age, unit_of(name))
    out.metrics = metrics
    out.computed = sorted({*(state.derived.keys() - latest.keys()), *state.read_as})
    out.texts = {
        name: MetricValue(text, None, step, _age(now_ns, at)) for name, (text, step, at) in state.texts.items()
    }


def _hardware(out: RunSnapshot, state: RunState) -> None:
    out.host = dict(state.host)
    attributed = _attributed_gpus(state)
    for uuid, gpu in sorted(state.gpus.items(), key=_gpu_order):
        is_attributed = gpu.readings.get("parent_uuid", uuid) in attributed  # A MIG slice is its GPU's.
        out.gpus.append({"uuid": uuid, **gpu.readings, "attributed": is_attributed})
    is_over = state.ranks and not state.alive
    # Not while it loads: all GPUs would count until its own are known, and then a counter would go back.
    out.energy_joules = _energy_joules(attributed.values()) if state.gpus_settled or is_over else None
    present = [gpu for gpu in out.gpus if not gpu.get("lost")]
    lost = f"all {len(out.gpus)} GPUs are lost" if out.gpus else "no GPU reading has been received"
    out.gpu = GpuState(bool(present), None if present else lost)


def _attributed_gpus(state: RunState) -> dict[str, Gpu]:
    """The GPUs that the run uses, where NVML lists its processes; else all GPUs of the machine."""
    if not any(gpu.is_used for gpu in state.gpus.values()):
        return state.gpus
    # A process that is not listed, as in some containers, may still have said which GPU it has.
    said = {uuid for rank in state.ranks.values() for uuid in rank.gpu_uuids}
    return {uuid: gpu for uuid, gpu in state.gpus.items() if gpu.is_used or uuid in said}


def _energy_joules(gpus: Iterable[Gpu]) -> float | None:
    read = [gpu for gpu in gpus if gpu.energy_last_joules is not None]
    if not read:
        return None
    return math.fsum(
        gpu.energy_before_joules + (gpu.energy_last_joules or 0.0) - (gpu.energy_first_joules or 0.0) for gpu in read
    )


def _gpu_order(item: tuple[str, Gpu]) -> tuple[int, str]:
    index = item[1].readings.get("index")
    return (index if isinstance(index, int) else 1 << 30, item[0])


def _rank(rank: RankState, now_ns: int) -> RankView:
    view = RankView(
        rank.rank, rank.reached if rank.reached >= 0 else None, _age(now_ns, rank.last_step_received_ns), rank.state,
        rank.session, rank.sessions, rank.open_phases[0][0] if rank.open_phases else None,
        step_seconds=rank.step_seconds, host=rank.host, pid=rank.pid, gpu_uuids=rank.gpu_uuids, reason=rank.reason,
        exit_code=rank.exit_code,
    )
    start = rank.mark_before or rank.mark
    if start is not None and rank.last_mono_ns is not None and rank.last_mono_ns > start[0] and rank.tokens_total:
        view.tokens_per_second = (rank.tokens_total - start[1]) * 1e9 / (rank.last_mono_ns - start[0])
    return view


def _datasets(state: RunState) -> DatasetsView:
    views, ratios = DatasetsView(state.dataset_current), mixture.shares(state)
    for name, (samples, tokens) in state.datasets.items():
        view = DatasetView(samples, tokens, ratios.get(name), size=mixture.size_of(state, name),
                           target_ratio=mixture.target_ratio(state, name))
        view.samples_total, view.tokens_total = state.datasets_total.get(name, (samples, tokens))
        if view.size:
            view.coverage = samples / view.size
            view.epochs = samples // view.size
        views.mixture[name] = view
    return views


def _alerts(out: RunSnapshot, state: RunState) -> None:
    """What holds right now first, then what happened, newest first."""
    now: list[Alert] = []
    step, time_ns = state.step, out.last_step_ns or 0
    if out.state == "stalled":
        age = out.last_step_age_seconds
        silence = f"no step for {age:.0f} s" if age is not None else "no first step yet"
        text = f"{silence} (limit {out.stall_limit_seconds:.0f} s)"
        now.append(Alert("stalled", "critical", text, step, time_ns, True))
    for rank in out.ranks:
        if rank.state == "lost":
            where = f"at step {rank.step}" if rank.step is not None else "before its first step"
            text = f"rank {rank.rank} ended without saying so {where}"
            now.append(Alert("rank_lost", "critical", text, rank.step, time_ns, True))
    for silent in current_ranks(state):
        if silent.excused and silent.state in LIVE and silent.reached >= 0:
            text = f"rank {silent.rank} has reported no step since {silent.reached}; steps are completed without it"
            now.append(Alert("rank_silent", "warning", text, silent.reached, time_ns, True))
    if out.mfu.value is not None and out.mfu.value > 1:
        text = f"MFU of {out.mfu.percent:.0f} % is impossible: {out.mfu.reason}"
        now.append(Alert("mfu_above_one", "warning", text, step, time_ns, True))
    if state.lost_events:
        reasons = ", ".join(f"{reason} {n}" for reason, n in state.lost_by_reason.items())
        now.append(Alert("events_lost", "warning", f"{state.lost_events} events are lost ({reasons})", None, 0, True))
    past = [
        Alert(a.name, a.severity, a.message, a.step, a.time_ns, a.step == state.step, a.count) for a in state.alerts
    ]
    out.alerts = [*now[:64], *past]
