"""The contract between a training process and the sidecar: every message that crosses.

Given: nothing. Hands on: frozen, versioned structs and their codecs.
Never: does I/O. Fields are only ever appended, always with a default; a change of meaning is a new VERSION.

Two layers:

* *Messages* travel over ZeroMQ: ``Hello`` and ``Frame`` to the sidecar, ``Ack``, ``Resend``, ``Fetch``, ``WantHello``
  and ``Refused`` back. Each is ``PREFIX`` (magic and version) followed by MessagePack.
* *Events* are the records inside a frame, in the ring and in the journal: MessagePack without prefix.

A stream is one training process' run: (run_id, rank, session). Its events are numbered from 0 without holes.
"""

from typing import Any, Union

import msgspec

VERSION = 1
MAGIC = b"TS"
PREFIX = MAGIC + bytes((VERSION,))

FRAME_EVENTS_MAX = 128
FRAME_BYTES_MAX = 48 * 1024  # An oversized frame never arrives and would be resent for ever: bound bytes too.
MESSAGE_BYTES_MAX = 2 * 1024 * 1024  # ZMQ_MAXMSGSIZE: the largest Hello (1 MiB of configuration) plus slack.
RECORD_BYTES_MAX = 1024 * 1024  # One logical record, before it is split into Parts.
NAME_BYTES_MAX = 200
METRICS_PER_RECORD_MAX = 512
STEP_MAX = 2**53  # The largest integer that JSON, SQLite, TensorBoard and W&B all carry exactly.

PENDING = "__pending__"
"""Reserved key of Step.metrics and Log.metrics: how many values a Completion of this record will still bring."""

Value = None | bool | int | float | str | list[Any] | dict[str, Any]
Metrics = dict[str, Value]


class Event(msgspec.Struct, frozen=True, array_like=True, tag_field="kind"):
    """What every record starts with: when it happened, on two clocks of the emitting process."""

    time_ns: int
    """Wall clock, nanoseconds since the Unix epoch. For people; may jump."""
    mono_ns: int
    """Monotonic clock of the emitting host. For durations; comparable within one stream only."""


class Step(Event, tag="step"):
    """One optimizer step has ended. Counts are of this rank alone, over all its micro-batches."""

    step: int
    metrics: Metrics = {}
    """Catalogue names: train/loss, train/num_tokens, train/num_samples and so on."""
    phases: dict[str, float] = {}
    """Seconds spent since the last step event, by phase that happens in each step (STEP_PHASES)."""
    datasets: dict[str, tuple[int, int]] = {}
    """What this step consumed: dataset -> (samples, tokens)."""


class Log(Event, tag="log"):
    """Numbers sent outside a step. ``late``: real wandb would have dropped this row (its step went back)."""

    step: int | None = None
    metrics: Metrics = {}
    late: bool = False


class Completion(Event, tag="completion"):
    """Late values of an earlier record of the same stream, e.g. device scalars that were still being computed."""

    seq: int = 0
    metrics: Metrics = {}


class Text(Event, tag="text"):
    step: int | None = None
    name: str = ""
    text: str = ""


class Histogram(Event, tag="histogram"):
    """``len(edges) == len(counts) + 1``; the values themselves never leave the training process."""

    step: int | None = None
    name: str = ""
    edges: list[float] = []
    counts: list[float] = []


class PhaseEntered(Event, tag="phase_entered"):
    """A phase that is not part of every step began (evaluation, checkpoint, ...): silence is now expected."""

    step: int | None = None
    name: str = ""


class PhaseExited(Event, tag="phase_exited"):
    step: int | None = None
    name: str = ""
    seconds: float = 0.0


class Consumed(Event, tag="consumed"):
    """Dataset consumption that no step event carried (the tail of a run)."""

    step: int | None = None
    datasets: dict[str, tuple[int, int]] = {}


class Checkpoint(Event, tag="checkpoint"):
    step: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    name: str = ""
    path: str = ""
    """Where the trainer wrote it. Stays on this machine."""


class ConfigChanged(Event, tag="config_changed"):
    """Keys to merge into the run's configuration."""

    config: dict[str, Any] = {}


class FactsChanged(Event, tag="facts_changed"):
    """Keys to merge into the run's model facts."""

    facts: dict[str, Any] = {}


class RunChanged(Event, tag="run_changed"):
    """What a script says of its run as a whole, later than its Hello. None: as before."""

    name: str | None = None
    notes: str | None = None
    tags: list[str] | None = None
    summary: dict[str, Any] = {}
    """One value for each name that is not simply the last one logged; None: it is in no summary."""
    summary_follows: list[str] = []
    """Names whose value is the last one logged again."""


class ClientReport(Event, tag="client_report"):
    """Totals since the session began, by reason. Sent when one changed, so that nothing is lost in silence."""

    rejected: dict[str, int] = {}
    """Values or records the client could not take, e.g. {"unsupported_type": 3}."""
    overwritten: int = 0
    """Events the ring had to overwrite before they were acknowledged."""


class Finished(Event, tag="finished"):
    state: str = "finished"
    """finished | failed"""
    reason: str | None = None


class Part(Event, tag="part"):
    """A slice of a record larger than one frame. Parts are consecutive; the last one completes the record."""

    index: int = 0
    count: int = 1
    data: bytes = b""


class Hardware(Event, tag="hardware"):
    """Written by the sidecar: one reading of the host and its GPUs. Absent fields are unknown."""

    step: int | None = None
    """Set on the step-aligned snapshots (every 10 steps), None on those taken by the clock."""
    host: dict[str, float] = {}
    gpus: list[dict[str, Any]] = []
    """Each has "uuid" and "index"; every other key is a reading in base units."""


class Gap(Event, tag="gap"):
    """Written by the sidecar: events that no longer exist anywhere. Declared once, counted exactly."""

    rank: int = 0
    session: int = 0
    first_seq: int = 0
    count: int = 0
    reason: str = ""


class RankEnded(Event, tag="rank_ended"):
    """Written by the sidecar: a training process is gone without having said Finished.

    With ``exit_code``, something else: how the command of a ``sidecar run`` ended, of which this process was the last,
    or one of them. That ends no process, but makes a failure of what looked like a good end.
    """

    rank: int = 0
    session: int = 0
    reason: str = ""
    exit_code: int | None = None
    """As a shell reports it: 128 + n after signal n."""


AnyEvent = Union[
    Step,
    Log,
    Completion,
    Text,
    Histogram,
    PhaseEntered,
    PhaseExited,
    Consumed,
    Checkpoint,
    ConfigChanged,
    FactsChanged,
    ClientReport,
    Finished,
    Part,
    Hardware,
    Gap,
    RankEnded,
    RunChanged,
]

STEP_PHASES = frozenset({"data_wait", "forward", "backward", "optimizer"})
"""Phases that every step has; their seconds ride on the step event. All others are events of their own."""

SIDECAR_RANK = -1
"""The rank under which the sidecar journals its own events (Hardware, Gap, RankEnded)."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """A stream introduces itself: once per connection, and again whenever a sidecar asks. Idempotent."""

    run_id: str
    rank: int
    session: int
    """Random 63-bit number of this process' stream. Without it a restarted trainer would look like duplicates."""
    time_ns: int
    mono_ns: int
    project: str
    name: str | None = None
    stage: str | None = None
    world_size: int = 1
    local_rank: int = 0
    pid: int = 0
    pid_started: float = 0.0
    """Seconds since boot at which pid started, as /proc reports it: a hint against pid reuse."""
    host: str = ""
    launch_id: str = ""
    config: dict[str, Any] = {}
    model_facts: dict[str, Any] = {}
    total_steps: int | None = None
    group: str | None = None
    tags: list[str] = []
    notes: str | None = None
    entity: str | None = None
    sinks: list[str] | None = None
    """Sinks asked for by the trainer; None: whatever the sidecar was started with."""
    gpu_uuids: list[str] = []
    client: str = ""
    """Version of the client library."""
    captured: str | None = None
    """Which library's calls are captured ("wandb", ...), None for our own API."""
    answers_fetch: bool = False
    """Whether this client knows ``Fetch``."""


class Frame(msgspec.Struct, frozen=True, tag="frame"):
    """Consecutive events of one stream; record i has sequence number ``first_seq + i``."""

    run_id: str
    rank: int
    session: int
    first_seq: int
    oldest_seq: int
    """The lowest sequence number the sender can still send: anything below that is missing is lost for good."""
    records: list[bytes] = []


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """Everything below ``next_seq`` is committed to the journal."""

    session: int
    next_seq: int


class Resend(msgspec.Struct, frozen=True, array_like=True, tag="resend"):
    """A frame is missing: go back to ``next_seq``."""

    session: int
    next_seq: int


class Fetch(msgspec.Struct, frozen=True, array_like=True, tag="fetch"):
    """Send what you hold now. Answered by frames; by an empty one where there is nothing."""

    session: int


class WantHello(msgspec.Struct, frozen=True, array_like=True, tag="want_hello"):
    session: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The sidecar will not take this stream (wrong version, too many streams). Not retried at speed."""

    session: int
    reason: str


class WrongVersion(ValueError):
    """The bytes are not this protocol, or a version of it that this side does not speak."""


Reply = Ack | Resend | Fetch | WantHello | Refused
"""What the sidecar says to a trainer."""

_encoder = msgspec.msgpack.Encoder()
_from_trainer = msgspec.msgpack.Decoder(Hello | Frame)
_from_sidecar = msgspec.msgpack.Decoder(Reply)
_event = msgspec.msgpack.Decoder(AnyEvent)


def encode(message: Hello | Frame | Reply) -> bytes:
    return PREFIX + _encoder.encode(message)


def kind_of(event: Event) -> str:
    """The event's tag on the wire, e.g. "step"."""
    return event.__struct_config__.tag  # type: ignore[return-value]


def encode_event(event: Event) -> bytes:
    return _encoder.encode(event)


def decode_event(record: bytes) -> AnyEvent:
    """Raises msgspec.DecodeError (or a subclass) for anything that is not an event of this version."""
    return _event.decode(record)


def decode_from_trainer(data: bytes) -> Hello | Frame:
    """Raises WrongVersion, or msgspec.DecodeError for malformed content."""
    return _from_trainer.decode(_payload(data))


def decode_from_sidecar(data: bytes) -> Reply:
    """Raises WrongVersion, or msgspec.DecodeError for malformed content."""
    return _from_sidecar.decode(_payload(data))


def _payload(data: bytes) -> memoryview:
    if data[:3] != PREFIX:
        said = f"version {data[2]}" if data[:2] == MAGIC and len(data) > 2 else "another protocol"
        raise WrongVersion(f"expected protocol version {VERSION}, got {said}")
    return memoryview(data)[3:]
