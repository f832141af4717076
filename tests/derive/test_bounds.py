"""Bad and hostile input: counted by reason, never fatal, never unbounded."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import wire
from sidecar.derive.snapshot import snapshot
from sidecar.snapshot import to_json
from sidecar.state import NAMES_MAX, RunState, dump, load
from tests.derive.stream import WALL_NS, Process, by_sidecar, derived, projected


@pytest.mark.parametrize("step", [-1, 2**53 + 1, 2**63 - 1])
def test_a_step_outside_what_every_outlet_can_carry_is_refused(step: int) -> None:
    p = Process()
    projector, rows = projected([p.step(step), p.record(wire.Log, step=step, metrics={"a": 1.0}), p.step(3)], p.hello())
    assert [row.step for row in rows if row.kind != "derived"] == [3]
    assert projector.state.rejected == {"step_out_of_range": 2}
    assert projector.state.latest == {}


def test_names_beyond_ten_thousand_are_counted_and_their_rows_still_printed() -> None:
    p = Process()
    records = [p.raw_step(i, {f"m{i}/{k}": 1.0 for k in range(500)}) for i in range(21)]
    projector, rows = projected(records, p.hello())
    assert len(projector.state.latest) == NAMES_MAX
    assert projector.state.rejected == {"names_over_limit": 500}
    assert len([row for row in rows if row.kind == "step"][-1].metrics) == 500


def test_a_name_beyond_two_hundred_bytes_is_dropped() -> None:
    p = Process()
    projector, rows = projected([p.raw_step(1, {"ä" * 101: 1.0, "ok": 2.0})], p.hello())
    assert rows[0].metrics == {"ok": 2.0}
    assert projector.state.rejected == {"name_too_long": 1}


@pytest.mark.parametrize("tokens", [-5, math.nan, math.inf, "many", 1e300, 2**60, [1], True])
def test_a_count_that_is_no_count_is_counted_as_rejected(tokens: Any) -> None:
    p = Process()
    projector, _ = projected([p.step(1, tokens=tokens), p.step(2, tokens=7)], p.hello())
    assert projector.state.tokens == 7
    assert projector.state.rejected == {"not_a_count": 1}


def test_counts_of_which_none_can_be_taken_are_unknown_and_not_zero() -> None:
    p = Process()
    _, rows = projected([p.step(i, tokens="many", samples=math.nan) for i in range(3)], p.hello())
    names = derived(rows)[2].keys()
    assert "train/steps_per_second" in names
    assert not names & {"train/tokens_per_second", "train/num_input_tokens_seen", "train/samples_per_second"}


def test_whole_floats_are_counts() -> None:
    p = Process()
    projector, _ = projected([p.step(1, tokens=64.0)], p.hello())
    assert (projector.state.tokens, type(projector.state.tokens)) == (64, int)


def test_datasets_beyond_the_limit_are_counted_under_other() -> None:
    p = Process()
    records = [p.step(i, datasets={f"d{i}": (1, 2)}) for i in range(300)]
    projector, _ = projected(records, p.hello())
    assert len(projector.state.datasets_total) <= 257
    assert sum(samples for samples, _ in projector.state.datasets.values()) == 300


def test_a_monotonic_clock_that_stands_still_or_goes_back_gives_no_rate_and_no_harm() -> None:
    p = Process()
    records = [p.step(1, 0.0, tokens=1), p.step(2, 0.0, tokens=1), p.step(3, -50.0, tokens=1), p.step(4, 1.0, tokens=1)]
    projector, rows = projected(records, p.hello())
    assert [row.step for row in rows if row.kind == "derived"] == [1, 2, 3, 4]
    assert projector.state.training_ns >= 0


def test_phases_that_never_end_or_never_began_do_no_harm() -> None:
    p = Process()
    records = [p.record(wire.PhaseExited, 5.0, name="evaluation", seconds=1e12), p.step(1)]
    records += [p.record(wire.PhaseEntered, 0.1, name=f"x{i}") for i in range(40)]
    records += [p.step(2), p.record(wire.PhaseExited, name="nope", seconds=math.nan), p.step(3)]
    projector, _ = projected(records, p.hello())
    assert len(projector.state.ranks[0].open_phases) == 16
    shown = snapshot(projector.state, now_ns=p.wall_ns)
    assert sum(shown.goodput.seconds.values()) == pytest.approx(shown.elapsed_seconds)


def test_an_unknown_process_without_a_hello_is_still_followed() -> None:
    p = Process()
    projector, rows = projected([p.step(1, loss=1.0)])
    assert [row.kind for row in rows] == ["step", "derived"]
    assert snapshot(projector.state, now_ns=p.wall_ns).state == "running"


def test_gaps_and_client_reports_are_counted_once() -> None:
    first, second = Process(session=1), Process(session=2, at=9.0)
    records = [
        first.record(wire.ClientReport, rejected={"unsupported_type": 2}),
        first.record(wire.ClientReport, rejected={"unsupported_type": 5}),
        second.record(wire.ClientReport, rejected={"unsupported_type": 1}),
        by_sidecar(wire.Gap(0, 0, rank=0, session=1, first_seq=3, count=40, reason="ring_overwritten")),
    ]
    projector, rows = projected(records, first.hello(), second.hello())
    shown = snapshot(projector.state, now_ns=WALL_NS)
    assert rows == []
    assert shown.rejected == {"unsupported_type": 6}
    assert shown.lost_events == 40


numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.none(), st.booleans(), st.text(max_size=5),
                    st.lists(st.integers(0, 3), max_size=2))
names = st.sampled_from(["train/loss", "train/num_tokens", "train/num_samples", "train/epoch", "train/grad_norm",
                         "train/flops", "train/num_loss_tokens", "__pending__", "x", "val/loss"])
clock = st.integers(-(2**63), 2**63 - 1)
step_numbers = st.one_of(st.integers(-2, 40), clock)
seconds = st.floats()


@st.composite
def events(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from([wire.Step, wire.Log, wire.Completion, wire.PhaseEntered, wire.PhaseExited,
                                 wire.Consumed, wire.Checkpoint, wire.Finished, wire.Text, wire.Histogram]))
    at = (draw(clock), draw(clock))
    counts = st.dictionaries(st.sampled_from("ab"), st.tuples(clock, clock), max_size=2)
    if kind is wire.Step:
        return kind(*at, step=draw(step_numbers), metrics=draw(st.dictionaries(names, numbers, max_size=4)),
                    phases=draw(st.dictionaries(st.sampled_from(["data_wait", "forward"]), seconds, max_size=2)),
                    datasets=draw(counts))
    if kind is wire.Log:
        return kind(*at, step=draw(step_numbers), metrics=draw(st.dictionaries(names, numbers, max_size=4)))
    if kind is wire.Completion:
        return kind(*at, seq=draw(st.integers(0, 30)), metrics=draw(st.dictionaries(names, numbers, max_size=2)))
    if kind in (wire.PhaseEntered, wire.Text, wire.Histogram):
        return kind(*at, step=None, name=draw(st.sampled_from(["evaluation", "checkpoint", "other"])))
    if kind is wire.PhaseExited:
        return kind(*at, name=draw(st.sampled_from(["evaluation", "checkpoint"])), seconds=draw(seconds))
    if kind is wire.Consumed:
        return kind(*at, datasets=draw(counts))
    return kind(*at)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 2), events()), max_size=25))
def test_no_sequence_of_events_raises_or_makes_a_state_that_cannot_be_stored_or_shown(stream: list) -> None:
    from sidecar.rows import Projector
    from tests.derive.stream import Record

    projector = Projector("run")
    facts = {"flops_per_token": 1, "peak_flops": 1}
    projector.greet(Process().hello(world_size=2, total_steps=10, model_facts=facts), 0)
    for seq, (rank, session, event) in enumerate(stream):
        projector.feed(Record(seq, rank, 10 * rank + session, seq, WALL_NS + seq, event))
    state = load(dump(projector.state))
    assert dump(state) == dump(projector.state)
    shown = snapshot(state, now_ns=WALL_NS + 10**10)
    to_json(shown)
    assert shown.verdict
    assert math.isclose(sum(shown.goodput.seconds.values()), shown.elapsed_seconds or 0.0, rel_tol=1e-9)


def test_an_empty_run_can_be_shown() -> None:
    shown = snapshot(RunState("r"), now_ns=WALL_NS)
    assert (shown.state, shown.step, shown.loss, shown.elapsed_seconds) == ("starting", None, None, None)
