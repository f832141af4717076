"""What the sidecar knows about itself: counters and health, one place, read by every outlet.

Given: increments from the intake, journal, collectors and sinks. Hands on: plain structs.
Never: computes a rate, blocks, or forgets a loss.

Each field has one writer thread; readers take whatever is there (ints and strings are replaced whole).
"""

from collections import Counter

import msgspec

LOSS_REASONS = ("ring_overwritten", "journal_cap", "journal_stalled")
REJECTION_REASONS = (
    "not_one_frame", "not_this_protocol", "wrong_version", "malformed", "hello_refused", "impossible_frame",
    "bad_event", "descriptors_short", "internal_error",
)  # fmt: skip
"""Exported as 0 from the start: a counter that first appears with its first increment hides that increment."""


class SinkHealth(msgspec.Struct):
    state: str = "starting"
    """starting | ok | offline | paused | failing | disabled"""
    reason: str | None = None
    """Why it is not simply ok, in one line, with the remedy."""
    url: str | None = None
    delivered_rows: int = 0
    lag_events: int | None = None
    """Journal rows not yet delivered; None: not known yet, or nothing will be delivered."""
    lag_seconds: float | None = None
    """Age of the oldest journal row not yet delivered; None when there is none."""
    failures_total: int = 0
    restarts_total: int = 0
    dead_letters_total: int = 0
    lost_rows_total: int = 0
    """Rows that retention removed before this sink had them."""
    last_success_ns: int | None = None
    latency_seconds: list[float] = []
    """Latest event-to-delivered times, newest last, at most 512: source of p50 and p99."""


class CollectorHealth(msgspec.Struct):
    success: bool = False
    duration_seconds: float = 0.0
    reason: str | None = None
    last_success_ns: int | None = None


class GpuHealth(msgspec.Struct):
    """What is wrong with a GPU whether or not a run uses it. None: the driver does not say."""

    lost: bool = False
    recovery_action: int | None = None
    ecc_uncorrected_errors_total: int | None = None


class JournalHealth(msgspec.Struct):
    state: str = "ok"
    """ok | full (no space: trainers hold their events) | failing"""
    reason: str | None = None
    bytes: int | None = None
    """Of all open journals; None until they were first measured."""
    commits_total: int = 0
    commit_failures_total: int = 0


class Telemetry(msgspec.Struct):
    started_ns: int = 0
    version: str = ""
    pid: int = 0
    launcher_pid: int | None = None
    """Of the ``sidecar run`` that it was started for; None under ``sidecar serve``."""
    data_dir: str = ""
    http_url: str | None = None
    events_endpoint: str = ""
    events_total: int = 0
    frames_total: int = 0
    duplicates_total: int = 0
    events_lost_total: Counter[str] = msgspec.field(default_factory=Counter)
    """Declared losses by reason: LOSS_REASONS."""
    frames_rejected_total: Counter[str] = msgspec.field(default_factory=Counter)
    """Messages refused at the border, by reason: REJECTION_REASONS."""
    streams: int = 0
    scrapes_total: int = 0
    """Requests for /metrics answered."""
    rings_recovered_total: int = 0
    rings_refused_total: Counter[str] = msgspec.field(default_factory=Counter)
    intake_latency_seconds: list[float] = msgspec.field(default_factory=list)
    """Latest emit-to-committed times, newest last, at most 512."""
    journal: JournalHealth = msgspec.field(default_factory=JournalHealth)
    sinks: dict[str, SinkHealth] = msgspec.field(default_factory=dict)
    collectors: dict[str, CollectorHealth] = msgspec.field(default_factory=dict)
    gpus: dict[str, GpuHealth] = msgspec.field(default_factory=dict)
    """By UUID, as of the last answer of the driver. Readings go on when no run trains."""
