"""Events to state: one small handler for each kind of event, in one table.

Given: Hellos and journal records of one run, in journal order. Hands on: a changed RunState.
Never: does I/O, reads a clock, or raises for what a trainer sent; what it cannot take is counted by reason.

Records of a stream may have to wait: a step whose values are still being computed carries PENDING, and it and
whatever follows it in its stream are held until a Completion brings them, at most 64 steps.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from sidecar import wire
from sidecar.derive import goodput, joins, mfu
from sidecar.state import (
    CONFIG_KEYS_MAX,
    COUNT_MAX,
    DATASETS_MAX,
    HELD_RECORDS_MAX,
    HELD_STEPS_MAX,
    NAMES_MAX,
    PHASE_DEPTH_MAX,
    PHASES_MAX,
    RANKS_MAX,
    SESSIONS_WAITING_MAX,
    TEXT_CHARS_MAX,
    TEXTS_MAX,
    Gpu,
    Held,
    Join,
    PhaseTotal,
    RankState,
    RunState,
)

PENDING = "__pending__"
"""Reserved metric name: how many values of this record a Completion will bring."""

SCALARS = frozenset((int, float, bool, type(None)))
LIVE = ("starting", "running")
SIDECAR = RankState(wire.SIDECAR_RANK)
"""Stands for the sidecar's own stream where a rank is called for; never changed."""


class Record(Protocol):
    """A journal record, as far as the fold needs it."""

    @property
    def rank(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def received_ns(self) -> int: ...
    @property
    def event(self) -> Any: ...


Ready = tuple[RankState, int, Any]
"""A record whose turn has come: its stream, sequence number and event."""


def greet(state: RunState, hello: wire.Hello, received_ns: int) -> None:
    """A stream introduces itself. Idempotent; takes effect with the first record of its session."""
    if not state.greeted:
        state.greeted = True
        state.greeted_ns = received_ns
        state.started_ns = hello.time_ns
        _merge_hello(state, hello)
    if len(state.greetings) < SESSIONS_WAITING_MAX:
        state.greetings.setdefault(hello.session, hello)


def fold(state: RunState, record: Record) -> None:
    for ready in turns(state, record):
        apply(state, ready)


def apply(state: RunState, ready: Ready) -> bool:
    """False: the record was refused, and has no row."""
    handler = HANDLERS.get(type(ready[2]))
    return handler is None or handler(state, *ready) is not False


def turns(state: RunState, record: Record) -> Iterator[Ready]:
    """The records whose turn comes with this one, usually itself. Each must be applied before the next is asked for."""
    state.events += 1
    state.emitted = []
    event = record.event
    rank = state.ranks.get(record.rank)
    if rank is None or rank.session != record.session:
        if record.rank < 0:
            yield from _from_sidecar(state, record)
            return
        if rank is None and len(state.ranks) >= RANKS_MAX:
            count(state, "ranks_over_limit")
            return
        if rank is not None:
            yield from _release(rank, everything=True)
        rank = _activate(state, record, rank)
    rank.last_received_ns = record.received_ns
    kind = type(event)
    if kind is wire.Step:
        rank.last_step_received_ns = record.received_ns
        rank.arrived_step = event.step
    if rank.held or ((kind is wire.Step or kind is wire.Log) and PENDING in event.metrics):
        yield from _hold(state, rank, record.seq, event)
    elif kind is wire.Completion:
        yield from _complete(state, rank, record.seq, event)
    else:
        rank.last_time_ns = event.time_ns
        yield rank, record.seq, event


def count(state: RunState, reason: str, by: int = 1) -> None:
    state.rejected[reason] = state.rejected.get(reason, 0) + by


# Streams: which session a rank is in, and records that wait


def _merge_hello(state: RunState, hello: wire.Hello) -> None:
    state.project = hello.project or state.project
    for field in ("name", "stage", "group", "notes", "entity", "total_steps", "sinks", "captured"):
        value = getattr(hello, field)
        if value is not None:
            setattr(state, field, value)
    state.world_size = max(1, hello.world_size)
    state.launch_id = hello.launch_id or state.launch_id
    state.client = hello.client or state.client
    state.tags = [*state.tags, *(tag for tag in hello.tags if tag not in state.tags)][:256]
    if hello.host and hello.host not in state.hosts and len(state.hosts) < RANKS_MAX:
        state.hosts = [*state.hosts, hello.host]
    state.config = {**state.config, **hello.config}
    state.facts = {**state.facts, **hello.model_facts}
    refresh_model(state)


def refresh_model(state: RunState) -> None:
    """Facts have changed: numerator and denominator of MFU are computed once, not for each step."""
    name = None
    for rank in state.ranks.values():
        for uuid in rank.gpu_uuids:
            gpu = state.gpus.get(uuid)
            said = gpu.readings.get("name") if gpu is not None else None
            if name is None and isinstance(said, str):
                name = said
    state.model = mfu.model_of(state.facts, name)


def _activate(state: RunState, record: Record, rank: RankState | None) -> RankState:
    """The first record of a session: its Hello takes effect; a second session of a rank is a restart."""
    hello = state.greetings.pop(record.session, None)
    event = record.event
    first = rank is None
    if rank is None:
        rank = RankState(record.rank, attempt=state.attempt)
        state.ranks[record.rank] = rank
        state.lead = min(state.ranks)
    else:
        started_ns = hello.time_ns if hello is not None else event.time_ns
        rank.ledger.unknown += rank.open_ns
        rank.ledger.down += max(0, started_ns - rank.last_time_ns)
        rank.reached_before = max(rank.reached_before, rank.reached)
        for reason, total in rank.rejected.items():
            rank.rejected_before[reason] = rank.rejected_before.get(reason, 0) + total
    rank.session = record.session
    rank.sessions += 1
    rank.state, rank.reason = "starting", None
    rank.reached, rank.last_mono_ns, rank.arrived_step = -1, None, None
    rank.open_ns, rank.open_phases, rank.mark, rank.mark_before = 0, [], None, None
    rank.held, rank.incomplete, rank.rejected = [], {}, {}
    rank.clock_mono_ns = hello.mono_ns if hello is not None else event.mono_ns
    rank.last_time_ns = hello.time_ns if hello is not None else event.time_ns
    if hello is not None:
        rank.host, rank.pid, rank.gpu_uuids = hello.host or None, hello.pid or None, list(hello.gpu_uuids[:64])
        _merge_hello(state, hello)
    if not state.started_ns:
        state.started_ns = event.time_ns
    _count_alive(state)
    if not first:
        joins.begin_attempt(state, rank, restarted=True)
    return rank


def _count_alive(state: RunState) -> None:
    state.alive = sum(rank.state in LIVE for rank in state.ranks.values())


def _hold(state: RunState, rank: RankState, seq: int, event: Any) -> Iterator[Ready]:
    if type(event) is wire.Completion:
        yield from _complete(state, rank, seq, event)
        return
    missing = 0
    if type(event) is wire.Step or type(event) is wire.Log:
        metrics = dict(event.metrics)
        wanted = metrics.pop(PENDING, 0)
        if type(wanted) is int and wanted > 0:
            missing = wanted
        event = msgspec.structs.replace(event, metrics=metrics)
    rank.held.append(Held(seq, event, missing))
    yield from _release(rank, everything=type(event) is wire.Finished)


def _complete(state: RunState, rank: RankState, seq: int, event: wire.Completion) -> Iterator[Ready]:
    for held in rank.held:
        if held.seq == event.seq and hasattr(held.event, "metrics"):
            held.missing = max(0, held.missing - len(event.metrics))
            held.event = msgspec.structs.replace(held.event, metrics={**held.event.metrics, **event.metrics})
            yield from _release(rank)
            return
    step = rank.incomplete.pop(event.seq, None)
    rank.last_time_ns = event.time_ns
    # Its record is gone: the values are kept, at its step if that is still known.
    yield rank, seq, wire.Log(event.time_ns, event.mono_ns, step=step, metrics=event.metrics, late=True)


def _release(rank: RankState, *, everything: bool = False) -> Iterator[Ready]:
    """Lets go, in order, of what is complete, and of the oldest where too much waits."""
    steps = sum(type(held.event) is wire.Step for held in rank.held)
    while rank.held:
        head = rank.held[0]
        if head.missing and not everything and steps <= HELD_STEPS_MAX and len(rank.held) <= HELD_RECORDS_MAX:
            return
        del rank.held[0]
        steps -= type(head.event) is wire.Step
        if head.missing:
            rank.incomplete[head.seq] = head.event.step
            if len(rank.incomplete) > HELD_RECORDS_MAX:
                del rank.incomplete[next(iter(rank.incomplete))]
        rank.last_time_ns = head.event.time_ns
        yield rank, head.seq, head.event


# What the sidecar itself wrote into the journal


def _from_sidecar(state: RunState, record: Record) -> Iterator[Ready]:
    event = record.event
    kind = type(event)
    if kind is wire.RankEnded:
        rank = state.ranks.get(event.rank)
        if rank is not None and rank.session == event.session:
            yield from _release(rank, everything=True)
            if rank.state in LIVE:
                rank.state = "lost"
                rank.reason = event.reason or None
                _count_alive(state)
                joins.settle(state)
    elif kind is wire.Gap:
        state.lost_events += event.count
        state.lost_by_reason[event.reason] = state.lost_by_reason.get(event.reason, 0) + event.count
        rank = state.ranks.get(event.rank)
        if rank is not None and rank.session == event.session:
            yield from _release(rank, everything=True)
    elif kind is wire.Hardware:
        _hardware(state, event)
        yield SIDECAR, record.seq, event


def _hardware(state: RunState, event: wire.Hardware) -> None:
    state.hardware_ns = event.time_ns
    state.host = {**state.host, **event.host} if len(state.host) < 1000 else dict(event.host)
    fresh = False
    for readings in event.gpus[:1024]:
        uuid = str(readings.get("uuid") or readings.get("index"))
        gpu = state.gpus.get(uuid)
        if gpu is None:
            if len(state.gpus) >= 1024:
                count(state, "gpus_over_limit")
                continue
            gpu = state.gpus[uuid] = Gpu()
            fresh = True
        gpu.readings = readings
        joules = readings.get("energy_joules")
        if type(joules) in (int, float):
            if gpu.energy_last_joules is not None and joules < gpu.energy_last_joules:  # The driver was reloaded.
                gpu.energy_before_joules += gpu.energy_last_joules - (gpu.energy_first_joules or 0.0)
                gpu.energy_first_joules = None
            if gpu.energy_first_joules is None:
                gpu.energy_first_joules = joules
            gpu.energy_last_joules = joules
    if fresh:
        refresh_model(state)


# One handler for each kind of event


def _step(state: RunState, rank: RankState, seq: int, event: wire.Step) -> bool:
    step, metrics, phases, mono_ns = event.step, event.metrics, event.phases, event.mono_ns
    if not 0 <= step <= wire.STEP_MAX:
        count(state, "step_out_of_range")
        return False
    remember(state, rank, metrics, step, event.time_ns)
    own_ns = goodput.end_step(state, rank, mono_ns, phases, step)
    if phases:
        for name, seconds in phases.items():
            _add_phase(state, rank, name, seconds)
    if step < rank.reached:  # The same process stepped back, or numbers its steps anew in each epoch.
        joins.begin_attempt(state, rank, restarted=False)
    elif rank.reached < 0:
        rank.state = "running" if rank.state in LIVE else rank.state
    rank.reached = step
    rank.last_mono_ns, rank.last_step_ns = mono_ns, event.time_ns
    rank.steps_total += 1

    tokens = samples = loss_tokens = 0
    if (value := metrics.get("train/num_tokens")) is not None:
        tokens = value if type(value) is int and 0 <= value <= COUNT_MAX else _count_of(state, value)
        state.has_tokens = True
    if (value := metrics.get("train/num_samples")) is not None:
        samples = value if type(value) is int and 0 <= value <= COUNT_MAX else _count_of(state, value)
        state.has_samples = True
    if (value := metrics.get("train/num_loss_tokens")) is not None:
        loss_tokens = _count_of(state, value)
        state.has_loss_tokens = True
    rank.tokens_total += tokens
    rank.samples_total += samples
    if not rank.steps_total & 31 or rank.mark is None:
        rank.mark_before = rank.mark
        rank.mark = (mono_ns, rank.tokens_total, step)
    if own_ns:
        rank.step_seconds = own_ns / 1e9

    join = Join(rank.attempt, step, rank.rank, rank.session, seq, mono_ns, event.time_ns, metrics, phases,
                1, tokens, samples, loss_tokens, 0.0, own_ns)
    if (value := metrics.get("train/flops")) is not None and type(value) in (int, float) and 0 <= value < 1e300:
        join.flops = float(value)
        state.has_flops = True
    loss = metrics.get("train/loss")
    if loss is not None and (type(loss) is float or type(loss) is int):
        weight = loss_tokens or tokens or 1
        join.loss_sum, join.loss_weight = loss * weight, weight
    if event.datasets:
        join.datasets = _datasets(state, event.datasets)
    joins.report(state, rank, join)
    return True


def _count_of(state: RunState, value: Any) -> int:
    """A count as an int; one that is no count is counted as rejected, and as 0."""
    if type(value) is int or (type(value) is float and value == value and abs(value) <= COUNT_MAX):
        if 0 <= value <= COUNT_MAX:
            return int(value)
    count(state, "not_a_count")
    return 0


def remember(state: RunState, rank: RankState, metrics: dict[str, Any], step: int | None, time_ns: int) -> None:
    """Keeps the latest value of every name; of names that several ranks send, the lowest rank's."""
    latest = state.latest
    stamp = (step, time_ns, rank.rank)
    if rank.rank == state.lead and metrics.keys() <= latest.keys() and SCALARS.issuperset(map(type, metrics.values())):
        latest.update(metrics)
        state.latest_at.update(dict.fromkeys(metrics, stamp))
        return
    latest_at = state.latest_at
    for name, value in metrics.items():
        at = latest_at.get(name)
        if at is None:
            if len(name) > wire.NAME_BYTES_MAX or len(name.encode()) > wire.NAME_BYTES_MAX:
                count(state, "name_too_long")
                continue
            if len(latest) >= NAMES_MAX:
                count(state, "names_over_limit")
                continue
        elif at[2] < rank.rank and state.ranks[at[2]].state in LIVE:
            continue
        if type(value) not in SCALARS and not (type(value) is str and len(value) <= TEXT_CHARS_MAX):
            continue  # Lists and maps are for the rows; what is shown at a glance is numbers and short words.
        latest[name] = value
        latest_at[name] = stamp


def _datasets(state: RunState, consumed: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The same under bounded names and believable counts; also notes which dataset gives most now."""
    taken: dict[str, tuple[int, int]] = {}
    most = -1
    for name, (samples, tokens) in consumed.items():
        if name not in state.datasets_total and name not in taken:
            if len(name.encode()) > wire.NAME_BYTES_MAX or len(state.datasets_total) + len(taken) >= DATASETS_MAX:
                count(state, "datasets_over_limit")
                name = "other"
        samples, tokens = _count_of(state, samples), _count_of(state, tokens)
        before = taken.get(name, (0, 0))
        taken[name] = (before[0] + samples, before[1] + tokens)
        if samples > most:
            most, state.dataset_current = samples, name
    return taken


def _log(state: RunState, rank: RankState, seq: int, event: wire.Log) -> bool:
    if not _step_ok(state, event.step):
        return False
    if not event.late or event.step is None or all(name not in state.latest for name in event.metrics):
        remember(state, rank, event.metrics, event.step, event.time_ns)
    else:
        fresh = {name: value for name, value in event.metrics.items()
                 if name not in state.latest_at or (state.latest_at[name][0] or 0) <= event.step}
        remember(state, rank, fresh, event.step, event.time_ns)
    return True


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
    elif depth is None and not rank.open_phases:  # Its beginning was lost: go by what it says it took.
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
        if not rank.phases:
            rank.phases = {}
        phase = rank.phases[name] = PhaseTotal()
    if 0 <= seconds < 1e9:
        phase.seconds_total += seconds
        phase.seconds_last = seconds
        phase.count += 1


def _consumed(state: RunState, rank: RankState, seq: int, event: wire.Consumed) -> bool:
    if not _step_ok(state, event.step):
        return False
    for name, (samples, tokens) in _datasets(state, event.datasets).items():
        joins.consume(state, name, samples, tokens)
    return True


def _checkpoint(state: RunState, rank: RankState, seq: int, event: wire.Checkpoint) -> bool:
    if not _step_ok(state, event.step):
        return False
    if rank.rank == state.lead:
        state.checkpoints_total += 1
        state.checkpoint_last = (event.step, event.seconds, event.bytes)
        joins.mark_checkpoint(state)
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


def _client_report(state: RunState, rank: RankState, seq: int, event: wire.ClientReport) -> None:
    """Totals of the session so far: they replace what this session said before."""
    for reason in list(event.rejected)[:100]:
        rank.rejected[reason] = max(rank.rejected.get(reason, 0), event.rejected[reason])
    rank.overwritten = event.overwritten


def _finished(state: RunState, rank: RankState, seq: int, event: wire.Finished) -> None:
    goodput.tick(rank, event.mono_ns)
    rank.ledger.unknown += rank.open_ns
    rank.open_ns = 0
    rank.state = event.state if event.state in ("finished", "failed") else "finished"
    rank.reason = event.reason
    _count_alive(state)
    joins.settle(state)


HANDLERS: dict[type, Callable[[RunState, RankState, int, Any], bool | None]] = {
    wire.Step: _step,
    wire.Log: _log,
    wire.Text: _text,
    wire.Histogram: _histogram,
    wire.PhaseEntered: _phase_entered,
    wire.PhaseExited: _phase_exited,
    wire.Consumed: _consumed,
    wire.Checkpoint: _checkpoint,
    wire.ConfigChanged: _config_changed,
    wire.FactsChanged: _facts_changed,
    wire.ClientReport: _client_report,
    wire.Finished: _finished,
}
