from types import SimpleNamespace

import pytest

from sidecar.client.mixture import UNKNOWN, MixtureTracker, dataset_at, datasets_of_rank

NAMES = ["ARC-Easy", "ARC-Challenge", "GSM8K", "SmolTalk"]
INDEX_MAP = [(3, 0), (0, 0), (2, 0), (1, 0), (3, 1)]


class Mixture:
    index_map = INDEX_MAP

    def __len__(self) -> int:
        return len(self.index_map)


def test_a_cursor_wraps_around() -> None:
    assert [dataset_at(INDEX_MAP, NAMES, cursor) for cursor in (0, 4, 5, 11)] == [
        "SmolTalk", "SmolTalk", "SmolTalk", "ARC-Easy",
    ]  # fmt: skip


def test_each_rank_sees_its_stride_and_all_ranks_together_everything() -> None:
    seen = [list(datasets_of_rank(Mixture(), NAMES, rank, 2)) for rank in (0, 1)]
    assert [index for index, _ in seen[0]] == [0, 2, 4]
    assert [index for index, _ in seen[1]] == [1, 3]
    together = sorted(seen[0] + seen[1])
    assert [name for _, name in together] == [NAMES[task] for task, _ in INDEX_MAP]
    assert len(list(datasets_of_rank(Mixture(), NAMES, 0, 2, epochs=3))) == 9


def test_a_mixture_without_index_map_is_one_dataset() -> None:
    assert dataset_at([], ["FineWeb-EDU"], 7) == "FineWeb-EDU"
    assert dataset_at([], [], 7) == UNKNOWN
    assert dataset_at([(9, 0)], NAMES, 0) == UNKNOWN


def test_counts_are_seen_only_once_the_step_has_ended() -> None:
    told: list = []
    run = SimpleNamespace(dataset=lambda name, **counts: told.append((name, counts)), facts=lambda changes: None)
    tracker = MixtureTracker(["a", "b"], [10, 30])
    tracker.increment("a", tokens=100)
    tracker.increment("a")
    assert tracker.coverage_percent("a") == 0.0
    tracker.flush(run)
    assert told == [("a", {"samples": 2, "tokens": 100})]
    assert tracker.coverage_percent("a") == 20.0
    for _ in range(20):
        tracker.increment("a")
    tracker.flush(run)
    assert tracker.coverage_percent("a") == 220.0
    assert tracker.coverage_percent("nobody") is None


STAGES = {
    "pretraining": (["FineWeb-EDU"], [240], 240),  # By shard.
    "midtraining": (["SmolTalk", "MMLU", "GSM8K"], [460_000, 100_000, 8_000], 568_000),
    "sft": (NAMES, [2_300, 1_100, 8_000, 10_000], 21_400),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_of_nanochat_have_their_totals_shares_and_coverage(stage: str) -> None:
    names, sizes, total = STAGES[stage]
    tracker = MixtureTracker(names, sizes)
    assert tracker.total_size == total
    assert tracker.ratios == {name: size / total for name, size in zip(names, sizes, strict=True)}
    assert sum(tracker.ratios.values()) == pytest.approx(1.0, abs=1e-12)
    for _ in range(12):
        tracker.increment(names[0])
    tracker.flush(SimpleNamespace(dataset=lambda name, **counts: None, facts=lambda changes: None))
    assert tracker.coverage_percent(names[0]) == pytest.approx(1200 / sizes[0])


def test_planned_shares_are_by_size_or_as_given() -> None:
    assert MixtureTracker(["a", "b"], [10, 30]).ratios == {"a": 0.25, "b": 0.75}
    assert MixtureTracker(["a", "b"], [10, 30], ratios=[1, 1]).ratios == {"a": 0.5, "b": 0.5}
    with pytest.raises(ValueError, match="ratios"):
        MixtureTracker(["a"], [1], ratios=[1, 2])
