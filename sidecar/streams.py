"""Sessions of ranks, and the order in which their records are folded.

Given: Hellos and journal records. Hands on: records whose turn it is; those the sidecar itself wrote are applied here.
Never: waits by the clock.

A Hello takes effect with the first record of its session; where a rank has sent none, with the news that its process
is gone. A record whose values are still being computed carries PENDING; it and whatever follows it in its stream are
held until a Completion brings them, at most 64 steps.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from sidecar import wire
from sidecar.derive import joins, mfu
from sidecar.state import (
    HELD_RECORDS_MAX,
    HELD_STEPS_MAX,
    LIVE,
    PAST_SESSIONS_MAX,
    RANKS_MAX,
    SESSIONS_WAITING_MAX,
    Gpu,
    Held,
    RankState,
    RunState,
    count,
)
from sidecar.wire import PENDING

MONO_NS_MAX = 2**59
"""18 years of uptime."""
TIME_NS_MAX = 2**62
"""The year 2116."""
LISTED_NS = 10_000_000_000
"""The sampler knows for certain, so long after a process has introduced itself, whose it is that NVML lists."""
DOWN_NS_MAX = 2**55
"""A year between two processes of a run; more is a broken clock."""

SIDECAR = RankState(wire.SIDECAR_RANK)
"""The sidecar's own stream, where a rank is needed; never changed."""


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
    """A stream introduces itself. Idempotent; takes effect later, see above."""
    if not state.greeted:
        state.greeted = True
        state.greeted_ns = received_ns
        state.started_ns = hello.time_ns
        _merge_hello(state, hello)
    rank = state.ranks.get(hello.rank)
    if rank is not None and (rank.session == hello.session or hello.session in rank.past):
        return
    if hello.session not in state.pending_hellos:
        if len(state.pending_hellos) >= SESSIONS_WAITING_MAX:
            del state.pending_hellos[next(iter(state.pending_hellos))]
            count(state, "sessions_over_limit")
        state.pending_hellos[hello.session] = hello


def plain_step(state: RunState, record: Record) -> RankState | None:
    """The usual case, faster than ``ready_records``: a step of a known stream in which nothing waits. None: not so."""
    event = record.event
    rank = state.ranks.get(record.rank)
    if rank is None or rank.session != record.session or type(event) is not wire.Step or rank.held:
        return None
    if PENDING in event.metrics or not (0 <= event.mono_ns <= MONO_NS_MAX and 0 <= event.time_ns <= TIME_NS_MAX):
        return None
    state.events += 1
    state.emitted = []
    rank.last_received_ns = rank.last_step_received_ns = record.received_ns
    rank.last_time_ns = event.time_ns
    return rank


def ready_records(state: RunState, record: Record) -> Iterator[Ready]:
    """The records that can be folded now, usually this one alone. Apply each before asking for the next."""
    state.events += 1
    state.emitted = []
    event = record.event
    if not (0 <= event.mono_ns <= MONO_NS_MAX and 0 <= event.time_ns <= TIME_NS_MAX):
        count(state, "clock_out_of_range")
        return
    rank = state.ranks.get(record.rank)
    if rank is None or rank.session != record.session:
        if record.rank < 0:
            yield from _from_sidecar(state, record)
            return
        if rank is None and len(state.ranks) >= RANKS_MAX:
            count(state, "ranks_over_limit")
            return
        if rank is not None and _is_past(state, rank, record.session):
            yield _past_rank(rank, record.session), record.seq, event
            return
        if rank is not None:
            yield from _release(rank, everything=True)
        rank = _activate(state, record.rank, record.session, event)
    rank.last_received_ns = record.received_ns
    kind = type(event)
    if kind is wire.Step:
        rank.last_step_received_ns = record.received_ns
    if rank.held or ((kind is wire.Step or kind is wire.Log) and PENDING in event.metrics):
        yield from _hold(state, rank, record.seq, event)
    elif kind is wire.Completion:
        yield from _complete(state, rank, record.seq, event)
    else:
        rank.last_time_ns = event.time_ns
        yield rank, record.seq, event


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


def _is_past(state: RunState, rank: RankState, session: int) -> bool:
    """Whether this is a late record of a process whose successor has reported already (a ring recovered afterwards)."""
    if session in rank.past:
        return True
    hello = state.pending_hellos.get(session)
    # Both clocks must say so: the wall clock may have been set back between two processes.
    return hello is not None and hello.time_ns < rank.started_ns and hello.mono_ns < rank.started_mono_ns


def _past_rank(rank: RankState, session: int) -> RankState:
    return RankState(rank.rank, session, state="past")


def _activate(state: RunState, number: int, session: int, event: Any) -> RankState:
    """The first event of a session: its Hello takes effect; a second session of a rank is a restart."""
    hello = state.pending_hellos.pop(session, None)
    rank = state.ranks.get(number)
    first = rank is None
    if rank is None:
        rank = RankState(number, attempt=state.attempt)
        state.ranks[number] = rank
        state.lead = min(state.ranks)
    else:
        started_ns = hello.time_ns if hello is not None else event.time_ns
        rank.ledger.unknown += rank.open_ns
        rank.ledger.down += min(max(0, started_ns - rank.last_time_ns), DOWN_NS_MAX)
        rank.reached_before = max(rank.reached_before, rank.reached)
        rank.past = [*rank.past[1 - PAST_SESSIONS_MAX :], rank.session]
        for reason, total in rank.rejected.items():
            rank.rejected_before[reason] = rank.rejected_before.get(reason, 0) + total
    rank.session = session
    rank.sessions += 1
    rank.state, rank.reason, rank.exit_code = "starting", None, None
    rank.reached, rank.last_mono_ns, rank.first_step = -1, None, None
    rank.open_ns, rank.open_phases, rank.mark, rank.mark_before = 0, [], None, None
    rank.held, rank.incomplete, rank.rejected = [], {}, {}
    rank.clock_mono_ns = hello.mono_ns if hello is not None else event.mono_ns
    rank.started_ns = rank.last_time_ns = hello.time_ns if hello is not None else event.time_ns
    rank.started_mono_ns = rank.clock_mono_ns
    if hello is not None:
        if len(state.ranks) == 1 and first:  # They are the first Hello's, which may be another rank's.
            state.config, state.facts, state.tags, state.hosts = {}, {}, [], []
        rank.host, rank.pid, rank.gpu_uuids = hello.host or None, hello.pid or None, list(hello.gpu_uuids[:64])
        _merge_hello(state, hello)
    if not state.started_ns:
        state.started_ns = event.time_ns
    count_alive(state)
    rank.excused = False
    if first:
        joins.count_present(state)
    else:
        joins.begin_attempt(state, rank, restarted=True)
    return rank


def count_alive(state: RunState) -> None:
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
    # Its record was released without them: they become a log row, at its step if that is still known.
    yield rank, seq, wire.Log(event.time_ns, event.mono_ns, step=step, metrics=event.metrics, late=True)


def _release(rank: RankState, *, everything: bool = False) -> Iterator[Ready]:
    """Releases, in order, records that are complete, and the oldest ones where too many wait."""
    steps = sum(type(held.event) is wire.Step for held in rank.held)
    while rank.held:
        head = rank.held[0]
        if head.missing and not everything and steps <= HELD_STEPS_MAX and len(rank.held) <= HELD_RECORDS_MAX:
            return
        del rank.held[0]
        steps -= type(head.event) is wire.Step
        if head.missing:
            rank.incomplete[head.seq] = getattr(head.event, "step", None)
            if len(rank.incomplete) > HELD_RECORDS_MAX:
                del rank.incomplete[next(iter(rank.incomplete))]
        rank.last_time_ns = head.event.time_ns
        yield rank, head.seq, head.event


# What the sidecar itself wrote into the journal


def _from_sidecar(state: RunState, record: Record) -> Iterator[Ready]:
    event = record.event
    kind = type(event)
    if kind is wire.RankEnded:
        rank = state.ranks.get(event.rank) or _greeted_only(state, record)
        if rank is not None and rank.session == event.session:
            yield from _release(rank, everything=True)
            if event.exit_code is not None:
                _command_ended(rank, event.exit_code, event.reason)
            elif rank.state in LIVE:
                rank.state = "lost"
                rank.reason = event.reason or None
                count_alive(state)
                joins.settle(state, record.received_ns)
    elif kind is wire.Gap:
        state.lost_events += event.count
        state.lost_by_reason[event.reason] = state.lost_by_reason.get(event.reason, 0) + event.count
        rank = state.ranks.get(event.rank)
        if rank is not None and rank.session == event.session:
            yield from _release(rank, everything=True)
    elif kind is wire.Hardware:
        _hardware(state, event)
        joins.settle(state, record.received_ns)
        yield SIDECAR, record.seq, event


def _greeted_only(state: RunState, record: Record) -> RankState | None:
    """A process that is gone said who it was and nothing else, and nobody of its rank ever has: it is the rank."""
    event = record.event
    if event.session not in state.pending_hellos or len(state.ranks) >= RANKS_MAX:
        return None
    rank = _activate(state, event.rank, event.session, event)
    rank.last_received_ns = record.received_ns
    return rank


def _command_ended(rank: RankState, exit_code: int, reason: str) -> None:
    """The process may live on all the same. What it said of a failure itself is worth more than the exit code."""
    if rank.state in LIVE:
        return
    rank.exit_code = exit_code
    if rank.state != "failed":
        rank.reason = reason or None
    if rank.state == "finished" and exit_code:
        rank.state = "failed"


def _hardware(state: RunState, event: wire.Hardware) -> None:
    state.host = dict(event.host)  # Not merged: readings that are no longer taken (a process ended) must disappear.
    fresh = False
    pids = {rank.pid for rank in state.ranks.values() if rank.pid and rank.state in LIVE}
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
        if any(process.get("trainer_pid") in pids for process in readings.get("processes", ())):
            # Energy is measured for whole GPUs: a MIG slice that is used stands for its GPU.
            state.gpus.get(readings.get("parent_uuid", uuid), gpu).is_used = True
        reading = readings.get("energy_joules")
        if isinstance(reading, int | float):
            joules = float(reading)
            if gpu.energy_last_joules is not None and joules < gpu.energy_last_joules:  # The driver was reloaded.
                gpu.energy_before_joules += gpu.energy_last_joules - (gpu.energy_first_joules or 0.0)
                gpu.energy_first_joules = None
            if gpu.energy_first_joules is None:
                gpu.energy_first_joules = joules
            gpu.energy_last_joules = joules
    state.gpus_settled = state.gpus_settled or any(gpu.is_used for gpu in state.gpus.values()) or any(
        rank.steps_total and event.time_ns - rank.started_ns >= LISTED_NS for rank in state.ranks.values()
    )
    if fresh:
        refresh_model(state)
