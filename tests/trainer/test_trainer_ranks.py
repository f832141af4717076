"""Two ranks, or two micro-batches, take the very step that one rank takes with one batch of all of it."""

import json
import math
from pathlib import Path

import pytest
from lives import run_lives
from test_trainer_command import flags_of
from test_trainer_data import damaged_shard

STAGES = ["pretrain", "midtrain", "sft", "dpo"]
"""PPO's ranks draw replies of their own: there is no one batch to compare with."""
STEPS = 4


def told(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"rank{rank}.json").read_text())


def weighted(parts: list[dict], by: str | None) -> float:
    """Mean loss of one step over ranks, each weighted by the targets it learnt from."""
    weights = [part["metrics"][by] if by else 1 for part in parts]
    return sum(part["loss"] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, tuple[list, list]]:
    """For each stage: the steps of one rank with 8 rows, and those of two ranks with 4 each."""
    folder = tmp_path_factory.mktemp("ranks")
    lives = []
    for stage in STAGES:
        for ranks in (1, 2):
            out = folder / f"{stage}{ranks}"
            out.mkdir()
            flags = {
                "n_layer": 1, "n_head": 2, "n_embd": 32, "seq_len": 96, "batch_size": 8 // ranks, "steps": STEPS,
                "threads": 1, "eval_freq": 99, "generate_freq": 99, "eval_iters": 1, "quiet": True,
            }  # fmt: skip
            flags |= {"data": corpus} if stage == "pretrain" else {"eval_examples": 1}
            flags |= {"no-pack": True} if stage == "midtrain" else {}
            flags |= {"chosen_weight": 1.0} if stage == "dpo" else {}
            lives.append({"arguments": [stage, *flags_of(flags)], "ranks": ranks, "record": str(out)})
    for name in ("poisoned", "damaged", "shards"):
        (folder / name).mkdir()
    for number in range(3):
        damaged_shard(folder / "shards" / f"{number}.parquet")
    damaged = [*lives[1]["arguments"], *flags_of({"data": folder / "shards", "seq_len": 32, "steps": 12})]
    damaged.remove("--quiet")
    lives.append({**lives[1], "record": str(folder / "damaged"), "arguments": damaged})
    lives.append({**lives[1], "record": str(folder / "poisoned"), "poison": [1, 2]})
    codes, said = run_lives(lives, folder)
    assert codes == [*[[0], [0, 0]] * len(STAGES), [0, 0], [0, 0]], said
    return {
        "poisoned": ([], [told(folder / "poisoned", rank)["steps"] for rank in range(2)]),
        "damaged": (told(folder / "damaged", 0)["logs"], said.splitlines()),
    } | {
        s: (told(folder / f"{s}1", 0)["steps"], [told(folder / f"{s}2", rank)["steps"] for rank in range(2)])
        for s in STAGES
    }


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_follow_the_gradient_of_all_tokens_together(pairs, stage: str) -> None:
    """A mean of the ranks' means would weigh a token more where its neighbours are few."""
    alone, both = pairs[stage]
    by = {"midtrain": "train/num_loss_tokens", "sft": "train/num_loss_tokens", "dpo": "train/loss_weight"}.get(stage)
    assert len(alone) == STEPS
    if by == "train/num_loss_tokens":
        first, second = (steps[0]["metrics"][by] for steps in both)
        assert first != second, "ranks that learn from equally many tokens would prove nothing"
    for step, parts in zip(alone, zip(*both, strict=True), strict=True):
        assert sum(part["metrics"].get(by, 0) for part in parts) == step["metrics"].get(by, 0)
        assert weighted(list(parts), by) == pytest.approx(step["loss"], rel=1e-5)
        for part in parts:
            assert part["grad_norm"] == pytest.approx(step["grad_norm"], rel=1e-4)


def test_a_loss_that_is_no_number_on_one_rank_leaves_the_step_out_on_both(pairs) -> None:
    _, (first, second) = pairs["poisoned"]
    for steps in (first, second):
        assert [step["metrics"].get("train/skipped_steps") for step in steps] == [None, 1, 1, 1]
    assert [math.isnan(step["loss"]) for step in second] == [False, True, False, False]
    assert not any(math.isnan(step["loss"]) for step in first)
    assert first[3]["grad_norm"] == second[3]["grad_norm"]


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_follow_the_gradient_of_all_tokens_together(trained, stage: str) -> None:
    flags = {"steps": STEPS, "chosen_weight": 1.0} if stage == "dpo" else {"steps": STEPS}
    flags |= {"pack": False} if stage == "midtrain" else {}
    whole = trained(stage, **flags, batch_size=8)
    parts = trained(stage, **flags, batch_size=2, grad_accum=4)
    for one, four in zip(whole.steps, parts.steps, strict=True):
        assert four["samples"] == one["samples"]
        assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_damaged_rows_are_counted_over_all_ranks_and_named_by_those_that_met_them(pairs) -> None:
    logs, said = pairs["damaged"]
    counts = [numbers["data/unreadable"] for _, numbers in logs if "data/unreadable" in numbers]
    assert counts == [4, 12], "those of the shard that validates, and of the others when they were read"
    assert any("rank 1: skipped 8 bad row(s): 2.parquet:5: damaged, with 4 row(s)" in line for line in said)


def test_two_ranks_count_each_sample_once_and_cannot_be_resumed_by_one(tmp_path: Path) -> None:
    """Packed rows hold different numbers of conversations, so that no rank's count stands for the other's."""
    flags = {
        "n_layer": 1, "n_head": 2, "n_embd": 32, "seq_len": 384, "batch_size": 4, "steps": 3, "threads": 1,
        "eval_freq": 99, "generate_freq": 99, "eval_iters": 1, "eval_examples": 1, "quiet": True, "out": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "told").mkdir()
    both = {"arguments": ["midtrain", *flags_of(flags)], "ranks": 2, "record": str(tmp_path / "told")}
    alone = {"arguments": ["midtrain", *flags_of({**flags, "steps": 6, "resume": str(tmp_path)})], "ranks": 1}
    codes, said = run_lives([both, alone], tmp_path)
    assert codes == [[0, 0], [2]], said
    assert "was written with world_size = 2, this run has 1" in said
    counts = [sum(step["samples"] for step in told(tmp_path / "told", rank)["steps"]) for rank in range(2)]
    assert counts[0] != counts[1]
    assert json.loads((tmp_path / "runs.json").read_text())["total_samples_trained"] == sum(counts)
