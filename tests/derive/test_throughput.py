"""Rates, totals and the time base: against a truth that the test knows."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.derive import throughput
from sidecar.state import Window
from tests.derive.stream import Process, derived, projected


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 4, 8])
def test_rates_are_within_one_percent_of_truth_for_accumulation_and_world_size(
    accumulation: int, world_size: int
) -> None:
    """All micro-batches of all ranks count, over the wall time between step ends."""
    micro_batch_tokens, micro_batch_samples, step_seconds = 512, 4, 0.25
    processes = [Process(rank, 100 + rank, mono=50.0 + 1000 * rank) for rank in range(world_size)]
    hellos = [process.hello(world_size=world_size) for process in processes]
    records = []
    for step in range(60):
        for process in processes:
            counts = {"tokens": micro_batch_tokens * accumulation, "samples": micro_batch_samples * accumulation}
            records.append(process.step(step, step_seconds, loss=1.0, **counts))
    _, rows = projected(records, *hellos)
    last = derived(rows)[59]
    per_second = accumulation * world_size / step_seconds
    assert last["train/tokens_per_second"] == pytest.approx(micro_batch_tokens * per_second, rel=0.01)
    assert last["train/samples_per_second"] == pytest.approx(micro_batch_samples * per_second, rel=0.01)
    assert last["train/steps_per_second"] == pytest.approx(1 / step_seconds, rel=0.01)
    assert last["train/num_input_tokens_seen"] == 60 * micro_batch_tokens * accumulation * world_size


def test_a_wall_clock_that_jumps_moves_no_rate_and_no_duration() -> None:
    steady, jumping = Process(), Process()
    calm, wild = [], []
    for step in range(40):
        calm.append(steady.step(step, 0.5, tokens=100))
        if step == 20:
            jumping.wall_ns += 3_600_000_000_000
        if step == 30:
            jumping.wall_ns -= 7_200_000_000_000
        wild.append(jumping.step(step, 0.5, tokens=100))
    _, calm_rows = projected(calm, steady.hello())
    _, wild_rows = projected(wild, jumping.hello())
    assert derived(calm_rows) == derived(wild_rows)
    assert derived(wild_rows)[39]["train/tokens_per_second"] == 200.0


def test_a_rate_is_absent_before_there_are_two_step_ends() -> None:
    process = Process()
    _, rows = projected([process.step(0, 1.0, tokens=100)], process.hello())
    assert not [name for name in derived(rows)[0] if "per_second" in name]


def test_steps_reported_every_tenth_time_are_still_counted_by_their_number() -> None:
    process = Process()
    _, rows = projected([process.step(step, 5.0, tokens=1000) for step in range(0, 300, 10)], process.hello())
    assert derived(rows)[290]["train/steps_per_second"] == pytest.approx(2.0)


def test_the_window_forgets_what_is_older_than_a_minute() -> None:
    process = Process()
    slow = [process.step(step, 4.0, tokens=100) for step in range(20)]
    fast = [process.step(step, 1.0, tokens=100) for step in range(20, 100)]
    _, rows = projected([*slow, *fast], process.hello())
    assert derived(rows)[99]["train/tokens_per_second"] == pytest.approx(100.0)


def test_an_evaluation_is_in_the_wall_rate_but_not_in_the_step_time() -> None:
    from sidecar import wire

    process = Process()
    records = [process.step(step, 1.0, tokens=100) for step in range(10)]
    records.append(process.record(wire.PhaseEntered, name="evaluation"))
    records.append(process.record(wire.PhaseExited, 20.0, name="evaluation", seconds=20.0))
    records.append(process.step(10, 1.0, tokens=100))
    projector, rows = projected(records, process.hello())
    last = derived(rows)[10]
    assert last["performance/batch_time_ms"] == pytest.approx(1000.0)
    assert last["train/tokens_per_second"] == pytest.approx(1000 / 30)
    assert last["train/total_training_time_seconds"] == pytest.approx(10.0)  # The first step has no step before it.
    assert projector.state.ranks[0].phases["evaluation"].seconds_total == 20.0


@given(st.lists(st.integers(1, 40_000_000_000), min_size=1, max_size=400))
def test_the_window_keeps_at_most_128_ends_of_the_last_minute_or_at_least_six(gaps: list[int]) -> None:
    window, mono = Window(), 0
    for step, gap in enumerate(gaps):
        mono += gap
        oldest = throughput.push(window, (mono, step, 0, step, 0.0, mono))
        kept = throughput.ends(window)
        assert kept[-1][0] == mono
        assert kept[0] == oldest
        assert [point[3] for point in kept] == list(range(kept[0][3], step + 1))
        assert len(kept) <= 128
        assert len(kept) <= 6 or mono - oldest[0] <= 60_000_000_000


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_percentiles_agree_with_the_statistics_module(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = throughput.percentile(ordered, share)
    assert found is not None
    assert ordered[0] <= found <= ordered[-1]
    if len(ordered) % 2:
        assert throughput.percentile(ordered, 0.5) == ordered[len(ordered) // 2]


def test_jitter_does_not_bias_the_rate() -> None:
    process, dice = Process(), random.Random(3)
    gaps = [dice.uniform(0.05, 0.15) for _ in range(128)]
    _, rows = projected([process.step(i, gap, tokens=10) for i, gap in enumerate(gaps)], process.hello())
    assert derived(rows)[127]["train/tokens_per_second"] == pytest.approx(1270 / sum(gaps[1:]), rel=1e-6)
