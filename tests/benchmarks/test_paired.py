"""The statistics of paired runs recover what was planted in made-up measurements, and claim no more than they know."""

import itertools
import math
import random
import statistics
from collections.abc import Callable

import pytest

from benchmarks import paired, stage_inflation
from benchmarks.stage_inflation import Note, Step

STEP_SECONDS = 0.1


def alternating_runs(
    growth: float,
    *,
    runs: int = 6,
    steps: int = 200,
    block: int = 8,
    noise: float = 0.03,
    content: Callable[[int], float] = lambda step: 1.0,
    seed: int = 1,
) -> list[stage_inflation.Run]:
    """Runs of the same steps: slow drift of the machine, noise of each step, now and then a step four times as long."""
    made = []
    for number in range(runs):
        rng, kinds, drift, run = random.Random(seed * 1000 + number), paired.alternation(number), 0.0, []
        for step in range(steps):
            if step % block == 0:
                is_monitored = next(kinds)
            drift = 0.98 * drift + rng.gauss(0, noise / 3)
            seconds = STEP_SECONDS * content(step) * math.exp(drift + rng.gauss(0, noise)) * (1 + growth * is_monitored)
            wall = seconds * (4 if rng.random() < 0.02 else 1)
            run.append(Step(step // block, is_monitored, wall, seconds, 1e-4))
        made.append(run)
    return made


def rollouts(step: int) -> float:
    """As PPO: every fourth step also draws replies."""
    return 3.5 if step % 4 == 0 else 1.0


def batches(step: int) -> float:
    """As SFT: some batches are twice as long as others."""
    return random.Random(step).uniform(0.7, 1.4)


@pytest.mark.parametrize("content", [lambda step: 1.0, rollouts, batches])
@pytest.mark.parametrize("planted_percent", [0.0, 2.0, -1.0, 20.0])
def test_a_planted_growth_is_found(content: Callable[[int], float], planted_percent: float) -> None:
    found = stage_inflation.figures(alternating_runs(planted_percent / 100, content=content))
    for growth in (found.capped, found.cpu, found.mean):  # 1.5 times the bounds: one in 300 is outside by chance.
        assert abs(growth.percent - planted_percent) < 1.5 * growth.half_width
    assert found.capped.half_width < 2.0
    assert abs(found.noise.percent) < 1.5 * found.noise.half_width


def test_steps_of_unlike_length_widen_the_bounds_hardly() -> None:
    alike, unlike = (stage_inflation.figures(alternating_runs(0.0, content=c)) for c in (lambda step: 1.0, batches))
    assert unlike.capped.half_width < 1.5 * alike.capped.half_width


def test_two_percent_are_a_miss_and_none_is_ok_when_the_machine_is_quiet() -> None:
    miss, good = (stage_inflation.figures(alternating_runs(planted, noise=0.005)) for planted in (0.02, 0.0))
    assert paired.decision(miss.capped, 1.0) == "MISS"
    assert paired.decision(good.capped, 1.0) == "ok"


def test_noise_wider_than_the_target_decides_nothing() -> None:
    found = stage_inflation.figures(alternating_runs(0.0, runs=2, noise=0.2))
    assert found.capped.half_width > 1.0
    assert paired.decision(found.capped, 1.0) == "undecided"


def test_95_percent_of_the_bounds_hold_the_truth() -> None:
    rng = random.Random(7)
    inside = 0
    for _ in range(400):
        ratios = [1.01 * math.exp(rng.choice((1, 1, 6)) * rng.gauss(0, 0.02)) for _ in range(25)]
        found = paired.growth(ratios)
        inside += found.low < 1.0 < found.high
    assert 0.92 < inside / 400 <= 0.98


def test_a_cost_of_every_third_step_counts_in_full() -> None:
    rng, blocks = random.Random(4), []
    for is_monitored in itertools.islice(paired.alternation(6), 400):
        cost = 0.06 if is_monitored else 0.0
        blocks.append(paired.Block(is_monitored, [rng.gauss(1, 0.01) + cost * (step % 3 == 0) for step in range(6)]))
    found = paired.growth(paired.pair_ratios(blocks, paired.capped_mean))
    assert found.percent == pytest.approx(2.0, abs=0.2)


def test_growth_is_the_same_read_backwards() -> None:
    ratios = [1.01, 1.03, 0.99, 1.02, 1.05, 1.0, 1.02]
    forward, backward = paired.growth(ratios), paired.growth([1 / ratio for ratio in ratios])
    assert (1 + forward.percent / 100) * (1 + backward.percent / 100) == pytest.approx(1)
    assert (1 + forward.high / 100) * (1 + backward.low / 100) == pytest.approx(1)


def test_fewer_than_six_pairs_have_no_bounds() -> None:
    found = paired.growth([1.0, 1.001, 1.002, 1.0, 1.001])
    assert math.isinf(found.low)
    assert math.isinf(found.high)
    assert paired.decision(found, 1.0) == "undecided"


def test_a_rare_and_dear_cost_is_in_the_plain_mean_though_not_in_the_capped_one() -> None:
    rng = random.Random(3)
    blocks = [
        paired.Block(kind, [1 + rng.random() / 100 + (1.0 if kind and i == 3 else 0.0) for i in range(8)])
        for kind in [next(kinds) for kinds in [paired.alternation(5)] for _ in range(80)]
    ]
    assert paired.growth(paired.pair_ratios(blocks, paired.capped_mean)).high < 3.0
    assert paired.mean_growth(paired.pair_ratios(blocks, statistics.fmean)).low > 10.0


def test_only_neighbours_of_two_kinds_are_pairs_and_only_those_of_one_kind_are_noise() -> None:
    blocks = [paired.Block(kind, [value]) for kind, value in ((True, 2.0), (False, 1.0), (False, 1.0), (True, 3.0))]
    assert paired.pair_ratios(blocks, statistics.fmean) == [2.0, 3.0]
    assert paired.noise_ratios(blocks, statistics.fmean) == [1.0]


def test_every_pair_has_both_kinds_and_both_orders_occur() -> None:
    kinds = paired.alternation(11)
    pairs = {(next(kinds), next(kinds)) for _ in range(20)}
    assert pairs == {(True, False), (False, True)}


def test_a_step_is_what_happened_between_two_notes() -> None:
    notes = [(-1, Note(True, 1.0, 0.5, 9.0)), (0, Note(False, 1.5, 0.75, 9.0)), (0, Note(False, 3.0, 1.0, 9.5))]
    assert stage_inflation.steps_of(notes) == [
        Step(-1, True, 0.5, 0.25, 0.0), Step(0, False, 1.5, 0.25, 0.5),
    ]  # fmt: skip


def test_what_the_sidecar_does_outside_the_monitored_blocks_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    runs = alternating_runs(0.0, noise=0.005)  # Their steps hold 0.1 ms of it each, of 100.
    whole = [Step(step, True, 0.1, 0.1, 0.003) for step in range(200)]
    ratios = stage_inflation.report("sft", runs, whole)
    assert statistics.median(ratios) == pytest.approx(1.029, abs=0.005)
    out = capsys.readouterr().out
    assert "3.00 % in a whole run" in out
    assert "MISS sft: growth of a step" in out
    stage_inflation.report("sft", runs, [step._replace(sidecar_cpu=0.0) for step in whole])
    assert "0.00 % is added\nok   sft" in capsys.readouterr().out
