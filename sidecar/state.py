"""Everything the sidecar knows about one run, as one serialisable value.

Given: nothing. Hands on: structs that ``sidecar.fold`` changes and ``sidecar.derive`` reads.
Never: derives metrics, reads a clock, or grows without bound. Encoding a state, decoding it and folding the
rest of the journal gives exactly what folding the whole journal gives.

Two kinds of totals live side by side. *Progress* counters (``tokens``) say how far training is: when a restarted
trainer resumes from an earlier checkpoint they go back to what that checkpoint had. *Lifetime* counters
(``tokens_total``) never go back and include the work done twice; Prometheus counters are made of these.
"""

from typing import Any

import msgspec

from sidecar import wire

LIVE = ("starting", "running")
"""States of a rank whose process may still speak."""
ENDS = ("lost", "failed", "finished")
"""States of a rank whose process is gone, the worst first: that is the run's."""

NAMES_MAX = 10_000
RANKS_MAX = 4_096
SESSIONS_WAITING_MAX = 1_024
PAST_SESSIONS_MAX = 64
PHASES_MAX = 256
PHASE_DEPTH_MAX = 16
DATASETS_MAX = 256
TEXTS_MAX = 64
TEXT_CHARS_MAX = 4_000
CONFIG_KEYS_MAX = 10_000
ALERTS_MAX = 64
HELD_RECORDS_MAX = 256
HELD_STEPS_MAX = 64
NOBODY = -2
"""No rank at all (the sidecar's own is -1)."""
COUNT_MAX = 2**48
"""Largest believable token or sample count of one step; keeps every total inside 64 bits."""

# Seconds, from toy steps below a millisecond to ten minutes.
STEP_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)


class Ledger(msgspec.Struct):
    """Where one rank's wall-clock time went, nanoseconds; the fields are exclusive and sum to elapsed time."""

    init: int = 0
    step_productive: int = 0
    data_wait: int = 0
    evaluation: int = 0
    checkpoint: int = 0
    sampling: int = 0
    compile: int = 0
    redone: int = 0
    stalled: int = 0
    down: int = 0
    unknown: int = 0


class PhaseTotal(msgspec.Struct):
    seconds_total: float = 0.0
    seconds_last: float | None = None
    count: int = 0


class Held(msgspec.Struct):
    """A record that waits for its own late values, or for an earlier record that does."""

    seq: int
    event: wire.AnyEvent
    missing: int = 0


class RankState(msgspec.Struct):
    rank: int
    session: int = 0
    sessions: int = 0
    past: list[int] = []
    """Earlier sessions. Records of theirs that still arrive are history, not a restart."""
    started_ns: int = 0
    started_mono_ns: int = 0
    attempt: int = 0
    """The run's attempt this rank is in; restarts of all ranks together are one new attempt."""
    state: str = "starting"
    reason: str | None = None
    exit_code: int | None = None
    """Of the command that it belonged to, where a launcher has told."""
    host: str | None = None
    pid: int | None = None
    gpu_uuids: list[str] = []
    excused: bool = False
    """Its steps are not waited for: it makes none, or has not reported any for too long."""
    reached: int = -1
    """Last step of this session; -1 is below every step."""
    first_step: int | None = None
    """First step of this session."""
    reached_before: int = -1
    """Highest step of all earlier sessions: at or below it, work is done again."""
    last_mono_ns: int | None = None
    """End of the last step."""
    last_step_ns: int | None = None
    last_step_received_ns: int | None = None
    phase_left_received_ns: int | None = None
    """When the end of its last outermost phase reached the sidecar."""
    last_received_ns: int = 0
    last_time_ns: int = 0
    steps_total: int = 0
    log_steps: int = 0
    """Of these, steps that were inferred from a captured library's log rows."""
    tokens_total: int = 0
    samples_total: int = 0
    tokens_reported: tuple[int, int] | None = None
    """(session, running total) in the last log row of a captured script."""
    clock_mono_ns: int = 0
    """The ledger accounts for the time up to here, except open_ns: what has passed since the last step end."""
    open_ns: int = 0
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    phases: dict[str, PhaseTotal] = {}
    open_phases: list[tuple[str, int]] = []
    """Name and start (monotonic ns), outermost first."""
    mark: tuple[int, int, int] | None = None
    """(mono_ns, tokens_total, step) of the newest mark; rates are measured from the one before it."""
    mark_before: tuple[int, int, int] | None = None
    step_seconds: float | None = None
    held: list[Held] = []
    incomplete: dict[int, int | None] = {}
    """seq -> step of records that were released before all their values had arrived."""
    rejected: dict[str, int] = {}
    rejected_before: dict[str, int] = {}
    overwritten: int = 0


class Join(msgspec.Struct):
    """One optimizer step, as its ranks report it. Sums over ranks; single values come from the lowest rank."""

    attempt: int
    step: int
    rank: int
    session: int
    seq: int
    mono_ns: int
    time_ns: int
    metrics: dict[str, Any]
    phases: dict[str, float]
    received_ns: int
    """When the first report of it reached the sidecar, on the sidecar's clock, as journaled."""
    ranks: int = 1
    """How many ranks have reported it. 0 in the report of a rank that had reported this step before."""
    tokens: int = 0
    samples: int = 0
    loss_tokens: int = 0
    flops: float = 0.0
    training_ns: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    datasets: dict[str, tuple[int, int]] = {}
    dataset_losses: dict[str, tuple[float, float]] = {}
    """Loss times weight, and weight, by dataset."""
    blocker: int = NOBODY
    """A rank that has not reached this step yet. Cached: while it has not, no other rank needs to be checked."""


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """Progress counters right after a step; where a rewind goes back to."""

    step: int
    tokens: int
    samples: int
    loss_tokens: int
    training_ns: int
    datasets: dict[str, tuple[int, int]] | None
    flops: float = 0.0


class Statistic(msgspec.Struct):
    """The latest values of one series with their running sums, for outlier tests in constant time."""

    values: list[float] = []
    at: int = 0
    total: float = 0.0
    squares: float = 0.0


class Window(msgspec.Struct):
    """The latest step ends of the lowest rank: (mono_ns, tokens, samples, step, flops, training_ns), cumulative."""

    points: list[tuple[int, int, int, int, float, int]] = []
    at: int = 0
    oldest: int = 0
    stream: tuple[int, int, int] = (0, 0, 0)
    """(rank, session, attempt) whose clock this is."""


class Model(msgspec.Struct):
    """Numerator and denominator of MFU, as far as the facts give them."""

    flops_per_token: float | None = None
    flops_per_token_causal: float | None = None
    convention: str = ""
    flops_reason: str | None = None
    peak_flops: float | None = None
    peak_source: str | None = None
    peak_reason: str | None = None
    dtype: str | None = None
    device_name: str | None = None


class AlertState(msgspec.Struct):
    name: str
    severity: str
    message: str
    step: int | None = None
    time_ns: int = 0
    count: int = 1


class Gpu(msgspec.Struct):
    readings: dict[str, Any] = {}
    energy_first_joules: float | None = None
    energy_last_joules: float | None = None
    energy_before_joules: float = 0.0
    is_used: bool = False
    """NVML once listed a process of this run on it."""


class RunState(msgspec.Struct):
    run_id: str

    # Who it is
    project: str = ""
    name: str | None = None
    stage: str | None = None
    group: str | None = None
    tags: list[str] = []
    notes: str | None = None
    entity: str | None = None
    launch_id: str = ""
    sinks: list[str] | None = None
    captured: str | None = None
    client: str = ""
    hosts: list[str] = []
    config: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    """Summary values that a script set itself or asked for (minimum, maximum ...); None: the name is in no summary."""
    read_as: list[str] = []
    """Names that a captured script's values were read under, where it has never logged those names itself."""
    total_steps: int | None = None
    world_size: int = 1
    started_ns: int = 0
    greeted_ns: int = 0
    """When the first Hello reached the sidecar (its clock)."""
    pending_hellos: dict[int, wire.Hello] = {}
    """Hellos by session whose records have not come yet. A Hello takes effect with the first record of its session,
    so that a replay, which knows all Hellos beforehand, gives the same rows."""
    greeted: bool = False

    # Streams
    ranks: dict[int, RankState] = {}
    lead: int | None = None
    """Lowest rank seen."""
    alive: int = 0
    devices: int = 1
    """Ranks behind the last joined step, one device each."""
    attempt: int = 1
    restarted: bool = False
    """The current attempt was begun by a new process; False: the same process went back to an earlier step."""
    restarted_ns: int = 0
    """When the process that began the current attempt started (its wall clock)."""
    present: int = 0
    """Ranks that have spoken in the current attempt."""
    expected: int = 1
    """Ranks that should speak: the world's, or those of the previous attempt where the others report elsewhere."""
    partial: bool = False
    """Some ranks of the world never reported here; they are no longer waited for."""
    pending: dict[int, Join] = {}
    """Joins of the current attempt by step."""
    pending_steps: list[int] = []
    """Their steps, as a heap."""
    stale: list[Join] = []
    """Joins of earlier attempts that are still incomplete, in order."""
    joined_attempt: int = 1
    joined_step: int = -1

    # Progress (goes back on a rewind) and lifetime (never does)
    step: int | None = None
    first_step: int | None = None
    max_step: int = -1
    rework_until: int = -1
    rework_steps: int = 0
    restarts: int = 0
    steps_seen: int = 0
    steps_total: int = 0
    tokens: int = 0
    tokens_total: int = 0
    samples: int = 0
    samples_total: int = 0
    loss_tokens: int = 0
    has_tokens: bool = False
    has_samples: bool = False
    has_loss_tokens: bool = False
    has_flops: bool = False
    flops: float = 0.0
    """Sent by the trainer step by step, instead of flops_per_token."""
    flops_total: float = 0.0
    training_ns: int = 0
    typical_step_ns: int = 0
    marks: list[Mark] = []
    marks_dense_from: int = 0
    """Below this step marks have been thinned out."""
    checkpoint_marks: list[Mark] = []
    window: Window = msgspec.field(default_factory=Window)
    histogram: list[int] = msgspec.field(default_factory=lambda: [0] * (len(STEP_BOUNDS) + 1))
    histogram_seconds: float = 0.0

    # Learning
    loss: float | None = None
    ema: float = 0.0
    ema_weight: float = 1.0
    loss_series: Statistic = msgspec.field(default_factory=Statistic)
    grad_series: Statistic = msgspec.field(default_factory=Statistic)
    epoch: float | None = None
    epoch_index: int | None = None
    epoch_fractional: bool = False
    epoch_started_ns: int | None = None
    """Training clock (mono of the lead rank) at which the current epoch began."""
    epoch_before_ns: int = 0
    """Time spent in the current epoch by earlier sessions."""
    model: Model = msgspec.field(default_factory=Model)
    derived: dict[str, Any] = {}
    """What was computed at the last joined step; the rows of that step carry the same numbers."""
    emitted: list[tuple[int, int, float, dict[str, Any]]] = []
    """(seq, step, time, derived metrics) of the steps completed by the last record folded."""

    # Everything else
    latest: dict[str, Any] = {}
    latest_at: dict[str, tuple[int | None, int, int]] = {}
    """(step, time_ns, rank) of the value in latest."""
    recent: dict[str, Any] = {}
    """The lead rank's last step, not yet merged into latest: most steps repeat the names of the one before."""
    recent_at: tuple[int | None, int, int] | None = None
    texts: dict[str, tuple[str, int | None, int]] = {}
    datasets: dict[str, tuple[int, int]] = {}
    datasets_total: dict[str, tuple[int, int]] = {}
    dataset_current: str | None = None
    gpus: dict[str, Gpu] = {}
    gpus_settled: bool = False
    """NVML has listed the run's processes, or listed none though the run had made steps: which GPUs are its own, or
    that it will not be known, is settled."""
    host: dict[str, float] = {}
    alerts: list[AlertState] = []
    rejected: dict[str, int] = {}
    lost_events: int = 0
    lost_by_reason: dict[str, int] = {}
    checkpoints_total: int = 0
    events: int = 0


def current_ranks(state: RunState) -> list[RankState]:
    """The ranks of the world as it is now, without those that a restart with fewer ranks left behind."""
    return [
        rank for rank in state.ranks.values()
        if rank.rank < state.world_size or rank.attempt == state.attempt or rank.state in LIVE
    ]  # fmt: skip


def exit_code_of(state: RunState) -> int | None:
    """With what the command ended that the run belonged to; None when no launcher has told."""
    return next((rank.exit_code for rank in current_ranks(state) if rank.exit_code is not None), None)


def count(state: RunState, reason: str, by: int = 1) -> None:
    state.rejected[reason] = state.rejected.get(reason, 0) + by


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RunState)


def dump(state: RunState) -> bytes:
    return _encoder.encode(state)


def load(data: bytes) -> RunState:
    """Raises msgspec.DecodeError for anything that is not a state of this version."""
    return _decoder.decode(data)
