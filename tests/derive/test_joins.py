"""Several ranks, one step: whatever order their records arrive in, the totals are the same."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import wire
from sidecar.derive.latest import latest_of
from tests.derive.stream import Process, Record, by_sidecar, derived, projected


def two_ranks(steps: int) -> tuple[list[Process], list[list[Record]]]:
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    streams = [
        [p.step(step, 0.5, loss=float(step + p.rank), tokens=100 * (1 + p.rank), samples=2, lr=0.1,
                datasets={"a": (1, 50)} if step % 2 else {"b": (1 + p.rank, 10)})
         for step in range(steps)]
        for p in processes
    ]
    return processes, streams


def interleaved(streams: list[list[Record]], order: list[int]) -> list[Record]:
    left, out = [list(stream) for stream in streams], []
    for choice in order:
        stream = left[choice] or left[1 - choice]
        out.append(stream.pop(0))
    return [*out, *left[0], *left[1]]


@settings(max_examples=60, deadline=None)
@given(st.permutations([0, 1] * 20))
def test_any_interleaving_of_ranks_gives_the_same_derived_rows_and_totals(order: list[int]) -> None:
    processes, streams = two_ranks(20)
    hellos = [p.hello(world_size=2) for p in processes]
    expected, expected_rows = projected(interleaved(streams, [0, 1] * 20), *hellos)
    found, rows = projected(interleaved(streams, order), *hellos)
    assert derived(rows) == derived(expected_rows)
    for name in ("tokens", "tokens_total", "samples", "steps_total", "step", "loss", "datasets", "alerts"):
        assert getattr(found.state, name) == getattr(expected.state, name), name
    assert latest_of(found.state) == latest_of(expected.state)


def test_the_loss_of_a_step_is_weighted_by_tokens_over_its_ranks() -> None:
    processes, streams = two_ranks(3)
    _, rows = projected(interleaved(streams, [0, 1] * 3), *(p.hello(world_size=2) for p in processes))
    assert derived(rows)[2]["train/loss"] == pytest.approx((2.0 * 100 + 3.0 * 200) / 300)


def test_a_rank_none_of_whose_tokens_count_in_the_loss_does_not_dilute_it() -> None:
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [
        processes[0].step(1, loss=2.0, tokens=4096, loss_tokens=300),
        processes[1].step(1, loss=0.0, tokens=4096, loss_tokens=0),
    ]
    _, rows = projected(records, *(p.hello(world_size=2) for p in processes))
    assert derived(rows)[1]["train/loss"] == 2.0


@pytest.mark.parametrize(
    ("weights", "joined"),
    [((1, 3), 2.5), ((0.5, 0.5), 2.0), ((None, math.nan), 1.5), ((0, -1), 1.5), ((True, "many"), 1.5)],
)
def test_a_loss_that_is_a_mean_over_something_else_than_tokens_says_its_weight(weights: tuple, joined: float) -> None:
    """As DPO's is one over pairs. What is no weight is passed over."""
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [
        process.step(1, loss=loss, tokens=900, loss_tokens=tokens, **{"train/loss_weight": weight})
        for process, loss, tokens, weight in zip(processes, (1.0, 3.0), (300, 100), weights, strict=True)
    ]
    _, rows = projected(records, *(p.hello(world_size=2) for p in processes))
    assert derived(rows)[1]["train/loss"] == joined


def test_a_loss_that_is_nan_on_one_rank_is_nan_for_the_step() -> None:
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [processes[0].step(1, loss=1.0, tokens=5), processes[1].step(1, loss=float("nan"), tokens=5)]
    projector, rows = projected(records, *(p.hello(world_size=2) for p in processes))
    loss = derived(rows)[1]["train/loss"]
    assert loss != loss
    assert projector.state.alerts[0].name == "loss_nonfinite"


def test_the_derived_row_comes_right_after_the_last_rank_and_not_before() -> None:
    processes, streams = two_ranks(2)
    _, rows = projected([streams[0][0], streams[0][1], streams[1][0], streams[1][1]],
                        *(p.hello(world_size=2) for p in processes))
    assert [(row.kind, row.step) for row in rows if row.kind in ("step", "derived")] == [
        ("step", 0), ("step", 1), ("step", 0), ("derived", 0), ("step", 1), ("derived", 1)]


def test_a_rank_that_is_gone_is_no_longer_waited_for() -> None:
    processes, streams = two_ranks(4)
    ended = by_sidecar(wire.RankEnded(0, 0, rank=1, session=11, reason="killed"))
    _, rows = projected([*streams[0][:1], *streams[1][:1], *streams[0][1:], ended],
                        *(p.hello(world_size=2) for p in processes))
    assert list(derived(rows)) == [0, 1, 2, 3]
    assert derived(rows)[3]["train/num_input_tokens_seen"] == 600


def test_a_finished_rank_is_no_longer_waited_for() -> None:
    processes, streams = two_ranks(4)
    done = processes[1].record(wire.Finished)
    _, rows = projected([*streams[0][:1], *streams[1][:1], done, *streams[0][1:]],
                        *(p.hello(world_size=2) for p in processes))
    assert list(derived(rows)) == [0, 1, 2, 3]


def test_a_rank_that_finished_before_the_others_spoke_does_not_complete_their_steps() -> None:
    """At the end of a run the whole tail of one rank may come before that of the next."""
    processes, streams = two_ranks(10)
    facts = {"flops_per_token": 1e6, "peak_flops": 1e12}
    hellos = [p.hello(world_size=2, model_facts=facts) for p in processes]
    records = [*streams[0][:3], *streams[1][:3], *streams[0][3:], processes[0].record(wire.Finished), *streams[1][3:],
               processes[1].record(wire.Finished)]
    projector, rows = projected(records, *hellos)
    _, together = projected(interleaved(streams, [0, 1] * 10), *hellos)
    assert derived(rows) == derived(together)
    assert projector.state.steps_total == 10


def test_a_silent_rank_is_waited_for_during_64_steps_and_what_it_sends_later_still_counts() -> None:
    processes, streams = two_ranks(100)
    hellos = [p.hello(world_size=2) for p in processes]
    _, rows = projected([*streams[1][:1], *streams[0][:65]], *hellos)
    assert max(derived(rows)) == 0
    ahead = [*streams[1][:1], *streams[0]]
    _, rows = projected(ahead, *hellos)
    assert max(derived(rows)) == 99
    projector, rows = projected([*ahead, *streams[1][1:]], *hellos)
    assert max(derived(rows)) == 99
    assert projector.state.tokens == 100 * 300


def test_with_slow_steps_a_silent_rank_is_waited_for_a_minute_and_then_every_step_is_complete_at_once() -> None:
    both = [Process(rank, 10 + rank) for rank in (0, 1)]
    projector, _ = projected([p.step(0, tokens=1) for p in both], *(p.hello(world_size=2) for p in both))
    behind = []
    for step in range(1, 30):
        projector.feed(both[0].step(step, 10.0, tokens=1))
        behind.append(step - (projector.state.step or 0))
    assert max(behind) == 8
    assert behind[9:] == [0] * 20


def test_a_silent_rank_is_waited_for_again_once_it_is_level_with_the_others() -> None:
    both = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [p.step(0, tokens=1) for p in both] + [both[0].step(step, 10.0, tokens=1) for step in range(1, 30)]
    records += [both[1].step(step, 0.1, tokens=1) for step in range(1, 20)]
    projector, _ = projected(records, *(p.hello(world_size=2) for p in both))
    assert [row.kind for row in projector.feed(both[0].step(30, 0.1, tokens=1))] == ["step", "derived"]
    for step in range(20, 31):
        assert [row.kind for row in projector.feed(both[1].step(step, 0.1, tokens=1))] == ["step"]
    assert projector.state.tokens == 62
    assert [row.kind for row in projector.feed(both[0].step(31, 0.1, tokens=1))] == ["step"]
    assert [row.kind for row in projector.feed(both[1].step(31, 0.1, tokens=1))] == ["step", "derived"]


def test_ranks_that_never_speak_hold_up_slow_steps_for_half_a_minute_only() -> None:
    p = Process()
    projector, _ = projected([p.step(0, tokens=1)], p.hello(world_size=16))
    assert projector.state.step is None
    projector.feed(by_sidecar(wire.Hardware(0, 0), p.wall_ns + 29 * 10**9))
    assert projector.state.step is None
    rows = projector.feed(by_sidecar(wire.Hardware(0, 0), p.wall_ns + 30 * 10**9))
    assert [row.kind for row in rows] == ["derived"]


def test_a_step_that_one_rank_reports_twice_still_waits_for_the_other() -> None:
    one, other = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [one.step(1, loss=1.0, tokens=5), one.step(1, loss=1.0, tokens=5), other.step(1, loss=4.0, tokens=5)]
    _, rows = projected(records, one.hello(world_size=2), other.hello(world_size=2))
    assert [row.kind for row in rows] == ["step", "step", "step", "derived"]
    assert rows[-1].metrics["train/loss"] == 2.0


def test_fast_steps_that_travel_by_the_hundred_are_joined_all_the_same() -> None:
    """At one step per millisecond a frame holds all steps of its rank before the other rank's frame comes."""
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    streams = [[p.step(step, 0.001, tokens=1) for step in range(1000)] for p in processes]
    records = [r for at in range(0, 1000, 128) for stream in streams for r in stream[at : at + 128]]
    _, rows = projected(records, *(p.hello(world_size=2) for p in processes))
    assert [row["train/num_input_tokens_seen"] for row in derived(rows).values()] == [2 * n for n in range(1, 1001)]


def test_a_rank_that_logs_but_never_steps_is_not_waited_for_in_every_step() -> None:
    worker, logger = Process(0, 10), Process(1, 11)
    records = [logger.record(wire.Log, metrics={"x": 1.0}), *(worker.step(i, tokens=1) for i in range(40))]
    _, rows = projected(records, worker.hello(world_size=2), logger.hello(world_size=2))
    assert max(derived(rows)) == 39


def test_a_backlog_that_arrives_rank_by_rank_is_joined_all_the_same() -> None:
    """The sidecar was away for the whole run: one ring is read after the other."""
    processes, streams = two_ranks(300)
    hellos = [p.hello(world_size=2) for p in processes]
    ends = [p.record(wire.Finished) for p in processes]
    late = [r._replace(received_ns=10**18) for r in [*streams[0], ends[0], *streams[1], ends[1]]]
    _, rows = projected(late, *hellos)
    _, together = projected(interleaved(streams, [0, 1] * 300), *hellos)
    assert derived(rows) == derived(together)


def test_ranks_of_other_nodes_that_never_speak_here_delay_the_first_steps_only() -> None:
    processes, streams = two_ranks(40)
    hellos = [p.hello(world_size=16) for p in processes]
    _, rows = projected(interleaved(streams, [0, 1] * 40), *hellos)
    assert list(derived(rows)) == list(range(40))
    first = next(i for i, row in enumerate(rows) if row.kind == "derived")
    assert sum(row.kind == "step" for row in rows[:first]) <= 2 * 12


def test_a_short_run_of_which_only_one_rank_ever_speaks_is_complete_at_its_end() -> None:
    (process, _), (steps, _) = two_ranks(5)
    end = process.record(wire.Finished)
    projector, rows = projected([*steps, end], process.hello(world_size=2))
    assert list(derived(rows)) == list(range(5))
    assert (projector.state.step, projector.state.steps_total) == (4, 5)
    assert projector.state.tokens_total == sum(row.metrics["train/num_tokens"] for row in rows if row.kind == "step")


def test_a_rank_that_reports_every_second_step_does_not_hold_up_the_others() -> None:
    all_steps, every_other = Process(0, 10), Process(1, 11)
    records = []
    for step in range(20):
        records.append(all_steps.step(step, tokens=1))
        if step % 2 == 0:
            records.append(every_other.step(step, 2.0, tokens=1))
    projector, rows = projected(records, all_steps.hello(world_size=2), every_other.hello(world_size=2))
    assert max(derived(rows)) == 18
    assert projector.state.tokens == 29


def test_the_same_step_twice_adds_up_and_has_one_derived_row() -> None:
    process = Process()
    projector, rows = projected([process.step(1, tokens=5), process.step(1, tokens=5), process.step(2, tokens=5)],
                                process.hello())
    assert list(derived(rows)) == [1, 2]
    assert projector.state.tokens == 15


def test_names_sent_by_the_last_pipeline_stage_only_are_kept_from_it() -> None:
    processes = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [processes[0].step(1, tokens=5), processes[1].step(1, loss=1.5, tokens=5)]
    projector, _ = projected(records, *(p.hello(world_size=2) for p in processes))
    assert projector.state.loss == 1.5
    assert projector.state.latest["train/loss"] == 1.5
