"""A mixture over ranks: counts, shares, passes, and the loss of each dataset."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.derive import mixture
from sidecar.derive.snapshot import snapshot
from sidecar.metrics import find
from tests.derive.stream import Process, derived, projected

FACTS = {"dataset_sizes": {"a": 10, "b": 40}, "dataset_ratios": {"a": 0.5, "b": 0.5}}


def losses_of(**datasets: tuple[float, float]) -> dict[str, float]:
    """One rank's metrics: name -> (mean loss, what counted in it)."""
    out = {mixture.TOTAL_WEIGHT: sum(weight for _, weight in datasets.values())}
    for name, (loss, weight) in datasets.items():
        out |= {f"dataset/{name}/loss": loss, f"dataset/{name}/loss_weight": weight}
    return out


def test_the_loss_of_each_dataset_is_weighted_by_what_counted_on_each_rank() -> None:
    ranks = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = [
        ranks[0].raw_step(1, losses_of(a=(2.0, 30.0), b=(5.0, 1.0)) | {"train/num_tokens": 7}),
        ranks[1].raw_step(1, losses_of(a=(4.0, 10.0), c=(1.5, 8.0)) | {"train/num_tokens": 700}),
    ]
    _, rows = projected(records, *(rank.hello(world_size=2) for rank in ranks))
    found = derived(rows)[1]
    assert found["dataset/a/loss"] == pytest.approx((2.0 * 30 + 4.0 * 10) / 40)
    assert (found["dataset/b/loss"], found["dataset/c/loss"]) == (5.0, 1.5)
    assert "dataset/a/loss_weight" not in found


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.tuples(st.floats(0, 20), st.integers(1, 4096))), min_size=2,
             max_size=5),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_ranks_may_come_in_any_order(per_rank: list[dict[str, tuple[float, float]]], rng: random.Random) -> None:
    ranks = [Process(rank, 10 + rank) for rank in range(len(per_rank))]
    records = [rank.raw_step(3, losses_of(**mine)) for rank, mine in zip(ranks, per_rank, strict=True)]
    rng.shuffle(records)
    _, rows = projected(records, *(rank.hello(world_size=len(ranks)) for rank in ranks))
    for name in "abc":
        parts = [mine[name] for mine in per_rank if name in mine]
        whole = sum(weight for _, weight in parts)
        mean = sum(loss * weight for loss, weight in parts) / whole if whole else None
        assert derived(rows)[3].get(f"dataset/{name}/loss") == (None if mean is None else pytest.approx(mean))


def test_what_cannot_be_a_loss_is_no_part_of_the_mean_and_nan_is_news() -> None:
    good = losses_of(a=(2.0, 3.0), b=(math.nan, 2.0))
    bad = losses_of(a=(7.0, 0.0), b=(1.0, 2.0)) | {"dataset/c/loss": "high", "dataset/c/loss_weight": 2.0,
                                                   "dataset/d/loss": 1.0, "dataset/d/loss_weight": math.inf}
    ranks = [Process(rank, 10 + rank) for rank in (0, 1)]
    _, rows = projected([ranks[0].raw_step(1, good), ranks[1].raw_step(1, bad)],
                        *(rank.hello(world_size=2) for rank in ranks))
    found = derived(rows)[1]
    assert found["dataset/a/loss"] == 2.0
    assert math.isnan(found["dataset/b/loss"])
    assert found.keys().isdisjoint({"dataset/c/loss", "dataset/d/loss"})


def test_one_rank_alone_keeps_the_loss_it_sent() -> None:
    rank = Process()
    _, rows = projected([rank.raw_step(1, losses_of(a=(2.0, 3.0)))], rank.hello())
    assert "dataset/a/loss" not in derived(rows)[1]


def test_counts_shares_coverage_and_passes_are_over_all_ranks_and_every_dataset_is_told() -> None:
    ranks = [Process(rank, 10 + rank) for rank in (0, 1)]
    records = []
    for step in range(1, 4):
        for rank in ranks:
            records.append(rank.step(step, datasets={"a": (4, 100)} if step < 3 else {"b": (8 + rank.rank, 10)}))
    projector, rows = projected(records, *(rank.hello(world_size=2, model_facts=FACTS) for rank in ranks))
    found = derived(rows)[3]
    assert {name: value for name, value in found.items() if name.startswith("dataset/")} == {
        "dataset/a/samples_seen": 16, "dataset/a/tokens_seen": 400, "dataset/a/ratio": pytest.approx(16 / 33),
        "dataset/a/target_ratio": 0.5, "dataset/a/coverage_percent": 160.0, "dataset/a/epochs": 1,
        "dataset/b/samples_seen": 17, "dataset/b/tokens_seen": 20, "dataset/b/ratio": pytest.approx(17 / 33),
        "dataset/b/target_ratio": 0.5, "dataset/b/coverage_percent": 42.5, "dataset/b/epochs": 0,
    }  # fmt: skip
    assert [name for name in found if name.startswith("dataset/") and find(name).source != "derived"] == []
    view = snapshot(projector.state, now_ns=records[-1].received_ns).dataset
    assert view.current == "b"
    a = view.mixture["a"]
    assert (a.samples, a.tokens, a.coverage, a.epochs, a.target_ratio, a.size) == (16, 400, 1.6, 1, 0.5, 10)
    assert sum(each.ratio for each in view.mixture.values()) == pytest.approx(1.0, abs=1e-9)


def test_of_very_many_datasets_only_those_of_the_step_are_told() -> None:
    rank = Process()
    records = [rank.step(step, datasets={f"d{step}": (1, 1)}) for step in range(mixture.DESCRIBED_MAX + 2)]
    _, rows = projected(records, rank.hello())
    told = {name.split("/")[1] for name in derived(rows)[mixture.DESCRIBED_MAX + 1] if name.startswith("dataset/")}
    assert told == {f"d{mixture.DESCRIBED_MAX + 1}"}


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -0.5, "half", True])
def test_a_planned_share_that_is_no_share_is_absent(ratio: object) -> None:
    p = Process()
    _, rows = projected([p.step(1, datasets={"a": (1, 2)})], p.hello(config={"dataset_ratios": {"a": ratio}}))
    assert "dataset/a/target_ratio" not in derived(rows)[1]
    assert derived(rows)[1]["dataset/a/ratio"] == 1.0
