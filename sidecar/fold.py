"""Events to state: one small handler for each kind of event, in one table.

Given: Hellos and journal records of one run, in journal order. Hands on: a changed RunState.
Never: does I/O, reads a clock, or raises for what a trainer sent; what it cannot take is counted by reason.
"""

from collections.abc import Callable
from typing import Any

from sidecar import wire
from sidecar.derive import goodput, joins, marks, mixture
from sidecar.derive.captured import as_step
from sidecar.derive.latest import merge_recent, remember
from sidecar.state import (
    CONFIG_KEYS_MAX,
    COUNT_MAX,
    DATASETS_MAX,
    LIVE,
    PHASE_DEPTH_MAX,
    PHASES_MAX,
    TEXT_CHARS_MAX,
    TEXTS_MAX,
    Join,
    PhaseTotal,
    RankState,
    RunState,
    count,
)
from sidecar.streams import (
    Ready,
    Record,
    count_alive,
    greet,
    plain_step,
    ready_records,
    refresh_model,
)
from sidecar.wire import PENDING

__all__ = ["PENDING", "Record", "apply", "fold", "greet", "plain_step", "step_ended", "ready_records"]


def fold(state: RunState, record: Record) -> None:
    rank = plain_step(state, record)
    if rank is not None:
        step_ended(state, rank, record.seq, record.event)
        return
    for ready in ready_records(state, record):
        apply(state, ready)


def apply(state: RunState, ready: Ready) -> bool:
    """False: the record was refused, and has no row."""
    if ready[0].state == "past":
        return _past(state, *ready)
    handler = HANDLERS.get(type(ready[2]))
    return handler is None or handler(state, *ready) is not False


# One handler for each kind of event


def step_ended(state: RunState, rank: RankState, seq: int, event: wire.Step) -> bool:
    step, phases, mono_ns = event.step, event.phases, event.mono_ns
    metrics: dict[str, Any] = event.metrics
    if not 0 <= step <= wire.STEP_MAX:
        count(state, "step_out_of_range")
        return False
    if rank.rank == state.lead:
        before = state.recent_at
        if before is None or before[2] != rank.rank or metrics.keys() != state.recent.keys():
            merge_recent(state)
            remember(state, rank, metrics, step, event.time_ns)
        state.recent, state.recent_at = metrics, (step, event.time_ns, rank.rank)
    else:
        remember(state, rank, metrics, step, event.time_ns)
    own_ns = goodput.end_step(state, rank, mono_ns, phases, step)
    if phases:
        for name, seconds in phases.items():
            _add_phase(state, rank, name, seconds)
    repeated = step == rank.reached
    if step < rank.reached:  # The same process went back, or numbers its steps from 0 in each epoch.
        joins.begin_attempt(state, rank, restarted=False)
    elif rank.reached < 0:
        rank.first_step = step
        rank.state = "running" if rank.state in LIVE else rank.state
    rank.reached = step
    rank.last_mono_ns, rank.last_step_ns = mono_ns, event.time_ns
    rank.steps_total += 1

    join = _join_of(state, rank, seq, event, own_ns)
    if repeated:
        join.ranks = 0
    rank.tokens_total += join.tokens
    rank.samples_total += join.samples
    if not rank.steps_total & 31 or rank.mark is None:
        rank.mark_before = rank.mark
        rank.mark = (mono_ns, rank.tokens_total, step)
    if own_ns:
        rank.step_seconds = own_ns / 1e9
    if join.datasets:
        state.dataset_current = _largest(join.datasets)
    joins.report(state, rank, join)
    return True


def _join_of(state: RunState, rank: RankState, seq: int, event: wire.Step, own_ns: int) -> Join:
    """What one rank reports of one step. ``own_ns``: its duration without pauses."""
    metrics: dict[str, Any] = event.metrics
    tokens = samples = loss_tokens = 0
    if (value := metrics.get("train/num_tokens")) is not None:
        if type(value) is int and 0 <= value <= COUNT_MAX:  # The usual case, without a call.
            tokens, state.has_tokens = value, True
        elif (given := _count_of(state, value)) is not None:
            tokens, state.has_tokens = given, True
    if (value := metrics.get("train/num_samples")) is not None:
        if type(value) is int and 0 <= value <= COUNT_MAX:
            samples, state.has_samples = value, True
        elif (given := _count_of(state, value)) is not None:
            samples, state.has_samples = given, True
    if (value := metrics.get("train/num_loss_tokens")) is not None and (given := _count_of(state, value)) is not None:
        loss_tokens, state.has_loss_tokens = given, True
    join = Join(rank.attempt, event.step, rank.rank, rank.session, seq, event.mono_ns, event.time_ns, metrics,
                event.phases, rank.last_received_ns, 1, tokens, samples, loss_tokens, 0.0, own_ns)
    if (value := metrics.get("train/flops")) is not None and type(value) in (int, float) and 0 <= value < 1e300:
        join.flops = float(value)
        state.has_flops = True
    loss = metrics.get("train/loss")
    if loss is not None and (type(loss) is float or type(loss) is int):
        weight: float = loss_tokens or tokens or 1
        if (given := metrics.get("train/loss_weight")) is not None:
            if type(given) in (int, float) and 0 < given < 1e300:
                weight = given
        elif metrics.get("train/num_loss_tokens") == 0 and loss - loss == 0:
            weight = 0  # A mean over no tokens says nothing. (One that is not finite does.)
        join.loss_sum, join.loss_weight = float(loss) * weight, float(weight)
    if event.datasets:
        join.datasets = _datasets(state, event.datasets)
    if mixture.TOTAL_WEIGHT in metrics:
        join.dataset_losses = mixture.losses(metrics)
    return join


def _past(state: RunState, past: RankState, seq: int, event: Any) -> bool:
    """A late record of a dead process: it has a row and its work is counted, but how the run is now stays as it is."""
    step = getattr(event, "step", None)
    if not _step_ok(state, step):
        return False
    rank = state.ranks[past.rank]
    kept = rank.first_step is None or step is None or step < rank.first_step
    if type(event) is wire.Step:
        join = _join_of(state, past, seq, event, 0)
        rank.steps_total += 1
        rank.tokens_total += join.tokens
        rank.samples_total += join.samples
        joins.count_past(state, join, kept=kept)
    elif type(event) is wire.Consumed:
        for name, (samples, tokens) in _datasets(state, event.datasets).items():
            joins.consume(state, name, samples, tokens, kept=kept)
    return type(event) is not wire.Completion


def _count_of(state: RunState, value: Any) -> int | None:
    """A number of tokens or samples. None: not given, or something else than a number of things, which is rejected."""
    if type(value) is int or type(value) is float:
        if 0 <= value <= COUNT_MAX:  # False for NaN.
            return int(value)
    if value is not None:
        count(state, "not_a_count")
    return None


def _datasets(state: RunState, consumed: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The same with a bounded number of names and plausible counts."""
    taken: dict[str, tuple[int, int]] = {}
    for name, (samples, tokens) in consumed.items():
        if name not in state.datasets_total and name not in taken:
            if len(name.encode()) > wire.NAME_BYTES_MAX or len(state.datasets_total) + len(taken) >= DATASETS_MAX:
                count(state, "datasets_over_limit")
                name = "other"
        samples, tokens = _count_of(state, samples) or 0, _count_of(state, tokens) or 0
        before = taken.get(name, (0, 0))
        taken[name] = (before[0] + samples, before[1] + tokens)
    return taken


def _largest(consumed: dict[str, tuple[int, int]]) -> str:
    """The dataset with the most samples."""
    return max(consumed, key=lambda name: consumed[name][0])


def _log(state: RunState, rank: RankState, seq: int, event: wire.Log) -> bool:
    if not _step_ok(state, event.step):
        return False
    merge_recent(state)
    if state.read_as and not event.metrics.keys().isdisjoint(state.read_as):
        state.read_as = [name for name in state.read_as if name not in event.metrics]
    if not event.late or event.step is None or all(name not in state.latest for name in event.metrics):
        remember(state, rank, event.metrics, event.step, event.time_ns)
    else:
        fresh = {name: value for name, value in event.metrics.items()
                 if name not in state.latest_at or (state.latest_at[name][0] or 0) <= event.step}
        remember(state, rank, fresh, event.step, event.time_ns)
    step = event.step
    if state.captured is not None and step is not None and step > rank.reached and rank.steps_total == rank.log_steps:
        _step_by_log(state, rank, seq, event, step)
    return True


def _step_by_log(state: RunState, rank: RankState, seq: int, event: wire.Log, step: int) -> None:
    """A captured script sends no step events: a log row with a higher step than all before it ends a step."""
    if event.late:
        return
    metrics = as_step(state, rank, event.metrics)
    for name in metrics:
        if name not in state.latest and name not in event.metrics and name not in state.read_as:
            state.read_as.append(name)
    rank.last_step_received_ns = rank.last_received_ns
    rank.log_steps += 1
    step_ended(state, rank, seq, wire.Step(event.time_ns, event.mono_ns, step=step, metrics=metrics))


def _step_ok(state: RunState, step: int | None) -> bool:
    if step is None or 0 <= step <= wire.STEP_MAX:
        return True
    count(state, "step_out_of_range")
    return False


def _text(state: RunState, rank: RankState, seq: int, event: wire.Text) -> bool:
    if not _step_ok(state, event.step) or not _name_ok(state, event.name):
        return False
    if event.name in state.texts:
        del state.texts[event.name]
    elif len(state.texts) >= TEXTS_MAX:
        del state.texts[next(iter(state.texts))]
    state.texts[event.name] = (event.text[:TEXT_CHARS_MAX], event.step, event.time_ns)
    return True


def _histogram(state: RunState, rank: RankState, seq: int, event: wire.Histogram) -> bool:
    if len(event.edges) != len(event.counts) + 1 and event.counts:
        count(state, "histogram_shape")
        return False
    return _step_ok(state, event.step) and _name_ok(state, event.name)


def _name_ok(state: RunState, name: str) -> bool:
    if len(name.encode()) <= wire.NAME_BYTES_MAX:
        return True
    count(state, "name_too_long")
    return False


def _phase_entered(state: RunState, rank: RankState, seq: int, event: wire.PhaseEntered) -> bool:
    if not _step_ok(state, event.step) or not _name_ok(state, event.name):
        return False
    if len(rank.open_phases) >= PHASE_DEPTH_MAX:
        count(state, "phases_too_deep")
        return False
    if not rank.open_phases:
        goodput.tick(rank, event.mono_ns)
    rank.open_phases.append((event.name, event.mono_ns))
    return True


def _phase_exited(state: RunState, rank: RankState, seq: int, event: wire.PhaseExited) -> bool:
    if not _step_ok(state, event.step) or not _name_ok(state, event.name):
        return False
    depth = next((i for i in reversed(range(len(rank.open_phases))) if rank.open_phases[i][0] == event.name), None)
    if depth == 0:
        goodput.leave_phase(rank, event.name, event.mono_ns)
        rank.phase_left_received_ns = rank.last_received_ns
    elif depth is None and not rank.open_phases:  # Its start was lost: use the duration it reports.
        goodput.tick(rank, max(rank.clock_mono_ns, event.mono_ns - _nanoseconds(event.seconds)))
        goodput.leave_phase(rank, event.name, event.mono_ns)
    if depth is not None:
        del rank.open_phases[depth:]
    _add_phase(state, rank, event.name, event.seconds)
    return True


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9) if 0 <= seconds < 1e9 else 0


def _add_phase(state: RunState, rank: RankState, name: str, seconds: float) -> None:
    phase = rank.phases.get(name)
    if phase is None:
        if len(rank.phases) >= PHASES_MAX:
            count(state, "phases_over_limit")
            return
        phase = rank.phases[name] = PhaseTotal()
    if 0 <= seconds < 1e9:
        phase.seconds_total += seconds
        phase.seconds_last = seconds
        phase.count += 1


def _consumed(state: RunState, rank: RankState, seq: int, event: wire.Consumed) -> bool:
    if not _step_ok(state, event.step):
        return False
    consumed = _datasets(state, event.datasets)
    for name, (samples, tokens) in consumed.items():
        joins.consume(state, name, samples, tokens)
    if consumed:
        state.dataset_current = _largest(consumed)
    return True


def _checkpoint(state: RunState, rank: RankState, seq: int, event: wire.Checkpoint) -> bool:
    if not _step_ok(state, event.step):
        return False
    if rank.rank == state.lead:
        state.checkpoints_total += 1
        marks.mark_checkpoint(state)
    return True


def _config_changed(state: RunState, rank: RankState, seq: int, event: wire.ConfigChanged) -> None:
    merged = {**state.config, **event.config}
    if len(merged) > CONFIG_KEYS_MAX:
        count(state, "config_over_limit")
        return
    state.config = merged
    total = event.config.get("total_steps")
    if type(total) is int and total > 0:
        state.total_steps = total


def _facts_changed(state: RunState, rank: RankState, seq: int, event: wire.FactsChanged) -> None:
    merged = {**state.facts, **event.facts}
    if len(merged) > CONFIG_KEYS_MAX:
        count(state, "facts_over_limit")
        return
    state.facts = merged
    refresh_model(state)


def _run_changed(state: RunState, rank: RankState, seq: int, event: wire.RunChanged) -> None:
    state.name = state.name if event.name is None else event.name
    state.notes = state.notes if event.notes is None else event.notes
    state.tags = state.tags if event.tags is None else event.tags[:256]
    if event.summary or event.summary_follows:
        merged = {**state.summary, **event.summary}
        state.summary = {name: value for name, value in merged.items() if name not in event.summary_follows}
        if len(state.summary) > CONFIG_KEYS_MAX:
            count(state, "summary_over_limit", len(state.summary) - CONFIG_KEYS_MAX)
            state.summary = dict(list(state.summary.items())[:CONFIG_KEYS_MAX])


def _client_report(state: RunState, rank: RankState, seq: int, event: wire.ClientReport) -> None:
    """Totals of the session so far: they replace what it reported before."""
    for reason in list(event.rejected)[:100]:
        rank.rejected[reason] = max(rank.rejected.get(reason, 0), event.rejected[reason])
    rank.overwritten = event.overwritten


def _finished(state: RunState, rank: RankState, seq: int, event: wire.Finished) -> None:
    goodput.tick(rank, event.mono_ns)
    rank.ledger.unknown += rank.open_ns
    rank.open_ns = 0
    rank.state = event.state if event.state in ("finished", "failed") else "finished"
    rank.reason = event.reason
    count_alive(state)
    joins.settle(state, rank.last_received_ns)
    if state.alive == 0 and abs(rank.last_received_ns - event.time_ns) < joins.DELIVERY_NS_MAX:
        joins.expect_no_more_ranks(state)


HANDLERS: dict[type, Callable[[RunState, RankState, int, Any], bool | None]] = {
    wire.Step: step_ended,
    wire.Log: _log,
    wire.Text: _text,
    wire.Histogram: _histogram,
    wire.PhaseEntered: _phase_entered,
    wire.PhaseExited: _phase_exited,
    wire.Consumed: _consumed,
    wire.Checkpoint: _checkpoint,
    wire.ConfigChanged: _config_changed,
    wire.FactsChanged: _facts_changed,
    wire.RunChanged: _run_changed,
    wire.ClientReport: _client_report,
    wire.Finished: _finished,
}
