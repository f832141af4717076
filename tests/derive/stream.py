"""A hand-made trainer: makes the records that one process would have sent. Its clock is ours."""

from typing import Any

from sidecar import wire
from sidecar.journal_reader import Record
from sidecar.rows import Projector, Row

WALL_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class Process:
    """One training process. Every call returns one record; ``after`` is the time since the last one, seconds."""

    def __init__(self, rank: int = 0, session: int = 7, *, at: float = 0.0, mono: float = 100.0) -> None:
        self.rank, self.session = rank, session
        self.wall_ns = WALL_NS + int(at * SECOND)
        self.mono_ns = int(mono * SECOND)
        self.started = (self.wall_ns, self.mono_ns)
        self.seq = 0

    def hello(self, **fields: Any) -> wire.Hello:
        given = {"project": "p", "run_id": "run", "rank": self.rank, "session": self.session}
        wall, mono = self.started
        return wire.Hello(**{**given, "time_ns": wall, "mono_ns": mono, **fields})

    def record(self, kind: type, after: float = 0.0, **fields: Any) -> Record:
        self.wall_ns += round(after * SECOND)
        self.mono_ns += round(after * SECOND)
        event = kind(self.wall_ns, self.mono_ns, **fields)
        self.seq += 1
        return Record(self.seq, self.rank, self.session, self.seq - 1, self.wall_ns, event)

    def step(
        self, step: int, after: float = 1.0, *, phases: Any = None, datasets: Any = None, **metrics: Any
    ) -> Record:
        named = {NAMES.get(name, name): value for name, value in metrics.items()}
        return self.record(wire.Step, after, step=step, metrics=named, phases=phases or {}, datasets=datasets or {})

    def raw_step(self, step: int, metrics: dict[str, Any], after: float = 1.0) -> Record:
        return self.record(wire.Step, after, step=step, metrics=metrics)


NAMES = {
    "loss": "train/loss", "lr": "train/learning_rate", "grad_norm": "train/grad_norm", "tokens": "train/num_tokens",
    "samples": "train/num_samples", "epoch": "train/epoch", "loss_tokens": "train/num_loss_tokens",
}  # fmt: skip


def by_sidecar(event: Any, received_ns: int = WALL_NS) -> Record:
    return Record(0, wire.SIDECAR_RANK, 0, 0, received_ns, event)


def projected(records: list[Record], *hellos: wire.Hello) -> tuple[Projector, list[Row]]:
    projector = Projector("run")
    for hello in hellos:
        projector.greet(hello, hello.time_ns)
    rows = [row for record in records for row in projector.feed(record)]
    return projector, rows


def derived(rows: list[Row]) -> dict[int, dict[str, Any]]:
    """Derived metrics by step."""
    return {row.step: row.metrics for row in rows if row.kind == "derived" and row.step is not None}
