"""What one run looks like at one moment: the run part of ``/status``, as plain structs.

Given: nothing. Hands on: msgspec structs whose JSON is the published schema (units last in every name).
Never: computes. ``sidecar.derive.snapshot.snapshot(state, now_ns=...)`` fills them.

None means unknown and is never replaced by 0. A value that is NaN or infinite is None with a sibling ``state``.
Published snapshots are never changed: readers on other threads may hold one as long as they like.
"""

from typing import Any

import msgspec


class StepTime(msgspec.Struct):
    """Wall time from one step end to the next, seconds, over the latest window."""

    mean_seconds: float | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    p99_seconds: float | None = None


class StepHistogram(msgspec.Struct):
    """All step durations of the run: ``counts[i]`` steps took at most ``bounds_seconds[i]`` (not cumulative)."""

    bounds_seconds: list[float] = []
    counts: list[int] = []
    """One longer than the bounds: the last one counts what was longer than every bound."""
    sum_seconds: float = 0.0


class Progress(msgspec.Struct):
    step_percent: float | None = None
    epoch_percent: float | None = None
    epoch_minutes: float | None = None
    """Elapsed in the current epoch."""


class MfuDenominator(msgspec.Struct):
    peak_flops_per_device: float | None = None
    devices: int | None = None
    dtype: str | None = None
    device_name: str | None = None


class Mfu(msgspec.Struct):
    value: float | None = None
    """Model FLOPs utilisation 0..1 with full attention (6N + 12LHQT, or what the trainer gave)."""
    percent: float | None = None
    convention: str = ""
    causal_value: float | None = None
    """The same with causal attention (6N + 6LHQT); None when the numerator was given as one number."""
    causal_percent: float | None = None
    reported_percent: float | None = None
    """MFU as the script itself reports it (train/mfu_reported)."""
    denominator: MfuDenominator = msgspec.field(default_factory=MfuDenominator)
    source: str | None = None
    """Where the peak comes from: table | override | measured | ..."""
    reason: str | None = None
    """Why it is absent, or why it cannot be right."""


class Eta(msgspec.Struct):
    seconds: float | None = None
    minutes: float | None = None
    hours: float | None = None
    reason: str | None = None


class Goodput(msgspec.Struct):
    ratio: float | None = None
    """Productive step time over elapsed time."""
    seconds: dict[str, float] = {}
    """Exclusive states of wall-clock time; they sum to elapsed time."""


class PhaseTime(msgspec.Struct):
    seconds_total: float = 0.0
    seconds_last: float | None = None
    count: int = 0


class MetricValue(msgspec.Struct):
    value: Any = None
    state: str | None = None
    """None | nan | inf | -inf"""
    step: int | None = None
    age_seconds: float | None = None
    unit: str | None = None


class RankView(msgspec.Struct):
    rank: int = 0
    step: int | None = None
    age_seconds: float | None = None
    state: str = "starting"
    """starting | running | finished | failed | lost"""
    session: int = 0
    sessions: int = 1
    """Processes this rank has had: 1 + restarts."""
    phase: str | None = None
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    host: str | None = None
    pid: int | None = None
    gpu_uuids: list[str] = []
    reason: str | None = None
    exit_code: int | None = None


class DatasetView(msgspec.Struct):
    samples: int = 0
    tokens: int = 0
    ratio: float | None = None
    """Share of all samples (of tokens when no samples were counted), 0..1."""
    coverage: float | None = None
    """Samples seen over size; above 1 after the first epoch."""
    size: int | None = None
    epochs: int | None = None
    """Whole passes completed."""
    target_ratio: float | None = None
    samples_total: int = 0
    """Lifetime, never going back: rework included."""
    tokens_total: int = 0


class DatasetsView(msgspec.Struct):
    current: str | None = None
    mixture: dict[str, DatasetView] = {}


class GpuState(msgspec.Struct):
    available: bool = False
    reason: str | None = None


class Alert(msgspec.Struct):
    name: str = ""
    """loss_nonfinite, loss_spike, grad_explosion, stalled, mfu_above_one, events_lost, rank_lost, rank_silent,
    journal_damaged ..."""
    severity: str = "warning"
    """info | warning | critical"""
    message: str = ""
    step: int | None = None
    time_ns: int = 0
    active: bool = False
    count: int = 1


class RunSnapshot(msgspec.Struct):
    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    group: str | None = None
    tags: list[str] = []
    state: str = "starting"
    """starting | running | stalled | finished | failed | lost"""
    verdict: str = ""
    exit_code: int | None = None
    """Of the command under ``sidecar run``, when it was not 0 and the run is what ended with it."""
    started_at: str | None = None
    started_ns: int | None = None
    last_started_ns: int | None = None
    """When its newest training process began; later than ``started_ns`` in a run that was resumed."""
    elapsed_seconds: float | None = None
    last_step_age_seconds: float | None = None
    last_step_ns: int | None = None
    stall_limit_seconds: float | None = None
    phase: str | None = None
    """The open phase, if any (evaluation, checkpoint, ...)."""

    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    loss_state: str | None = None
    loss_smoothed: float | None = None
    perplexity: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    grad_norm_state: str | None = None

    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    steps_per_second: float | None = None
    tokens: int | None = None
    """Tokens behind the current progress: what a rewind undid is taken back."""
    samples: int | None = None
    loss_tokens: int | None = None
    flops: float | None = None
    flops_per_second: float | None = None
    training_seconds: float | None = None
    """Time in optimizer steps, without evaluation, checkpoints and sampling; of the current progress."""

    steps_total: int = 0
    """This and the other ``*_total`` are monotonic: rework included, never going back. Prometheus counters use them."""
    tokens_total: int | None = None
    samples_total: int | None = None
    flops_total: float | None = None
    rework_steps: int = 0
    restarts: int = 0
    checkpoints_total: int = 0
    world_size: int = 1

    step_time: StepTime = msgspec.field(default_factory=StepTime)
    step_histogram: StepHistogram = msgspec.field(default_factory=StepHistogram)
    progress: Progress = msgspec.field(default_factory=Progress)
    mfu: Mfu = msgspec.field(default_factory=Mfu)
    eta: Eta = msgspec.field(default_factory=Eta)
    goodput: Goodput = msgspec.field(default_factory=Goodput)
    phases: dict[str, PhaseTime] = {}
    val: dict[str, float | None] = {}
    """Latest val/* values by the name after the slash."""
    metrics: dict[str, MetricValue] = {}
    """The latest of everything logged and derived."""
    computed: list[str] = []
    """Names in ``metrics`` that nobody logged: the sidecar computed them, or read a captured script's under them."""
    texts: dict[str, MetricValue] = {}
    ranks: list[RankView] = []
    dataset: DatasetsView = msgspec.field(default_factory=DatasetsView)
    gpus: list[dict[str, Any]] = []
    gpu: GpuState = msgspec.field(default_factory=GpuState)
    host: dict[str, Any] = {}
    energy_joules: float | None = None
    config: dict[str, Any] = {}
    model_facts: dict[str, Any] = {}
    notes: str | None = None
    summary: dict[str, Any] = {}
    """Summary values that the script set itself or asked for (minimum, maximum ...) where they are not the last value
    logged. None: the name is in no summary."""
    entity: str | None = None
    alerts: list[Alert] = []
    """Newest first, bounded."""
    rejected: dict[str, int] = {}
    lost_events: int = 0
    events: int = 0


class RunSummary(msgspec.Struct, frozen=True):
    """A run in one line, as lists of runs show it; stored in its journal, so that listing need not read the events."""

    run_id: str
    project: str = ""
    name: str | None = None
    stage: str | None = None
    state: str = ""
    last_step: int | None = None
    started_ns: int | None = None
    last_started_ns: int | None = None
    """When its newest training process began."""

    @property
    def order_ns(self) -> int:
        """Where it is in lists of runs: the one last started comes first."""
        return self.last_started_ns or self.started_ns or 0


def summary(shown: RunSnapshot) -> RunSummary:
    """The line of a list of runs that says of a run what its snapshot does."""
    return RunSummary(
        shown.run_id, shown.project or "", shown.name, shown.stage, shown.state, shown.step, shown.started_ns,
        shown.last_started_ns,
    )


_encoder = msgspec.json.Encoder()


def to_json(snapshot: RunSnapshot) -> bytes:
    """NaN and infinities that sit in free-form fields (config, gpus) become null, which msgspec does by itself."""
    return _encoder.encode(snapshot)
