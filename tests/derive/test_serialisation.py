"""A state can be put away in mid-stream and taken up again; a replay gives the same bits."""

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import wire
from sidecar.fold import PENDING
from sidecar.rows import Projector
from sidecar.state import RunState, dump, load
from tests.derive.stream import Process, Record, by_sidecar

FACTS = {"params": 1000, "layers": 2, "heads": 2, "head_dim": 8, "seq_len": 16, "peak_flops": 1e6,
         "dataset_sizes": {"a": 50}}


def eventful() -> tuple[list[wire.Hello], list[Record]]:
    """A bit of everything: two ranks, a restart, phases, late values, hardware, gaps, bad input."""
    processes = [Process(0, 1), Process(1, 2)]
    again = [Process(0, 3, at=500.0), Process(1, 4, at=501.0)]
    records: list[Record] = []
    for step in range(1, 30):
        for p in processes:
            extra: dict[str, Any] = {"epoch": step / 10, "loss": 3.0 / step, "grad_norm": 1.0, "tokens": 10 + step}
            if step % 5 == 0:
                extra[PENDING] = 1
                del extra["loss"]
            records.append(p.step(step, 0.1 + step / 100, samples=2, datasets={"a": (1, 5), "b": (2, 6)}, **extra))
            if step % 5 == 1 and step > 1:
                late = {"train/loss": math.nan if step == 11 else 2.5}
                records.append(p.record(wire.Completion, seq=records[-1].seq - 2, metrics=late))
        p = processes[0]
        if step % 7 == 0:
            records.append(p.record(wire.PhaseEntered, step=step, name="evaluation"))
            records.append(p.record(wire.Log, 1.0, step=step, metrics={"val/loss": 1.0 / step, "note": "x"}))
            records.append(p.record(wire.PhaseExited, 1.0, step=step, name="evaluation", seconds=2.0))
            records.append(p.record(wire.Checkpoint, step=step, seconds=1.0, bytes=5))
            records.append(by_sidecar(wire.Hardware(p.wall_ns, 0, host={"cpu_percent": 5.0, "memory_used_bytes": 2e9},
                                                    gpus=[{"uuid": "G", "index": 0, "energy_joules": 5.0 * step}])))
    records.append(processes[0].step(-5))
    records.append(processes[0].record(wire.Text, step=3, name="sample/x", text="hello"))
    records.append(processes[0].record(wire.Histogram, step=3, name="weights/w", edges=[0.0, 1.0], counts=[3.0]))
    records.append(processes[1].record(wire.ClientReport, rejected={"unsupported_type": 3}))
    records.append(by_sidecar(wire.Gap(0, 0, rank=1, session=2, first_seq=3, count=4, reason="ring_overwritten")))
    records.append(by_sidecar(wire.RankEnded(0, 0, rank=0, session=1, reason="killed")))
    for step in range(21, 40):
        records += [p.step(step, 0.2, loss=1.0, tokens=10, epoch=step / 10) for p in again]
    records += [again[0].record(wire.FactsChanged, facts={"peak_flops": 2e6})]
    records += [again[0].record(wire.ConfigChanged, config={"lr": 1.0})]
    records += [p.record(wire.Finished) for p in again]
    return [p.hello(world_size=2, model_facts=FACTS, total_steps=40) for p in [*processes, *again]], records


def printed(rows: list[Any]) -> list[bytes]:
    """Bit for bit, NaN included."""
    return [msgspec.msgpack.encode(row) for row in rows]


def whole() -> tuple[Projector, list[bytes]]:
    hellos, records = eventful()
    projector = Projector("run")
    for hello in hellos:
        projector.greet(hello, hello.time_ns)
    return projector, printed([row for record in records for row in projector.feed(record)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 120))
def test_a_state_restored_in_mid_stream_continues_identically(cut: int) -> None:
    hellos, records = eventful()
    projector = Projector("run")
    for hello in hellos:
        projector.greet(hello, hello.time_ns)
    rows = [row for record in records[:cut] for row in projector.feed(record)]
    projector = Projector("run", load(dump(projector.state)))
    rows += [row for record in records[cut:] for row in projector.feed(record)]
    expected, expected_rows = whole()
    assert printed(rows) == expected_rows
    assert dump(projector.state) == dump(expected.state)


def test_a_replay_of_the_same_journal_gives_the_same_bits() -> None:
    first, second = whole(), whole()
    assert first[1] == second[1]
    assert dump(first[0].state) == dump(second[0].state)


def test_a_late_sink_that_knows_all_hellos_beforehand_gets_the_same_rows_as_a_live_one() -> None:
    """Live, a Hello comes just before its stream's first record."""
    hellos, records = eventful()
    by_session = {hello.session: hello for hello in hellos}
    projector, rows, greeted = Projector("run"), [], set()
    for record in records:
        hello = by_session.get(record.session)
        if hello is not None and record.session not in greeted:
            greeted.add(record.session)
            projector.greet(hello, record.received_ns)
        rows += projector.feed(record)
        if hello is not None and record.seq % 9 == 0:
            projector.greet(hello, record.received_ns)  # A repeated Hello changes nothing.
    assert printed(rows) == whole()[1]


def test_the_order_in_which_ranks_say_hello_changes_no_row() -> None:
    hellos, records = eventful()
    projector = Projector("run")
    for hello in reversed(hellos):
        projector.greet(hello, hello.time_ns)
    assert printed([row for record in records for row in projector.feed(record)]) == whole()[1]


def test_an_empty_state_survives_the_round_trip() -> None:
    assert load(dump(RunState("x"))) == RunState("x")
