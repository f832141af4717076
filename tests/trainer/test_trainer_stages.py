"""Each stage on tiny settings: what it reports, that it goes on after a kill, and that two ranks agree."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.errors import UserError
from trainer.nonfinite import NonFiniteGuard
from trainer.stage import Stage
from trainer.tokenizer import IDENTITY

OWN = {
    "pretrain": set(),
    "midtrain": {"train/num_loss_tokens"},
    "sft": {"train/num_loss_tokens"},
    "dpo": {
        "train/num_loss_tokens", "train/flops", "rewards/chosen", "rewards/rejected", "rewards/accuracy",
        "rewards/margin", "dpo/kl", "train/loss_weight",
    },
    "ppo": {
        "train/num_loss_tokens", "train/flops", "ppo/reward", "ppo/response_length", "ppo/kl", "ppo/kl_weight",
        "ppo/policy_loss", "ppo/value_loss", "ppo/entropy", "ppo/clip_fraction",
    },
}  # fmt: skip
SMALL = {"ppo": {"max_reply": 6, "ppo_epochs": 2, "rollout_batches": 2}}


@pytest.mark.parametrize("stage", OWN)
def test_every_stage_reports_the_common_numbers_and_its_own(trained, stage: str) -> None:
    run = trained(stage, steps=3, grad_accum=2, **SMALL.get(stage, {}))
    assert run.begun["stage"] == stage
    assert [step["step"] for step in run.steps] == [1, 2, 3]
    for step in run.steps:
        assert all(math.isfinite(step[name]) for name in ("loss", "learning_rate", "grad_norm", "epoch"))
        assert step["tokens"] > 0
        assert step["samples"] > 0
        assert set(step["metrics"]) == OWN[stage]
        assert all(type(value) in (int, float) for value in step["metrics"].values())
    consumed = run.begun["config"]["dataset_sizes"]
    assert set(run.datasets) <= set(consumed)
    assert sum(samples for samples, _ in run.datasets.values()) == sum(step["samples"] for step in run.steps)
    assert run.begun["config"]["dataset/total_size"] > 0
    assert run.finished == {}


@pytest.mark.parametrize("stage", OWN)
def test_what_belongs_to_the_data_is_told_once(trained, stage: str) -> None:
    run = trained(stage, steps=2, **SMALL.get(stage, {}))
    for name in ("dataset/train_size", "dataset/max_tokens", "data/total_samples", "data/pass_rate"):
        assert [step for step, _ in run.logged(name)] == [0]
    for name in ("continuous/run_number", "continuous/total_samples_trained", "continuous/uptime_hours"):
        assert [step for step, _ in run.logged(name)] == [2]


def test_supervised_tokens_are_those_of_the_loss_mask_and_fewer_than_the_tokens_read(trained) -> None:
    for step in trained("sft", steps=3).steps:
        assert 0 < step["metrics"]["train/num_loss_tokens"] < step["tokens"]


@pytest.mark.parametrize("stage", ["midtrain", "sft"])
def test_the_loss_of_a_supervised_stage_falls(trained, stage: str) -> None:
    losses = trained(stage, steps=20).losses
    assert sum(losses[-3:]) < sum(losses[:3])


def test_dpo_learns_which_reply_is_better(trained, tmp_path: Path) -> None:
    rows = [{"prompt": f"Is {n} a number?", "chosen": "Yes.", "rejected": "No!"} for n in range(40)]
    (tmp_path / "preferences.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run = trained("dpo", steps=10, data=str(tmp_path))
    first, last = run.steps[0]["metrics"], run.steps[-1]["metrics"]
    assert first["rewards/accuracy"] == 0
    assert last["rewards/accuracy"] == 1
    assert last["rewards/chosen"] > last["rewards/rejected"]
    assert run.logged("val/rewards_accuracy") == [(10, 1.0)]


def test_dpo_starts_at_the_reference_where_both_replies_are_worth_nothing(trained) -> None:
    first = trained("dpo", steps=1).steps[0]
    assert first["loss"] == pytest.approx(math.log(2))
    assert first["metrics"]["rewards/margin"] == pytest.approx(0, abs=1e-6)
    assert first["metrics"]["dpo/kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_dropout_is_not_taken_for_a_change_of_the_policy(trained, stage: str) -> None:
    first = trained(stage, steps=1, dropout=0.5, **SMALL.get(stage, {})).steps[0]["metrics"]
    if stage == "dpo":
        assert first["rewards/chosen"] == first["rewards/rejected"] == first["dpo/kl"] == 0
    else:
        assert first["ppo/clip_fraction"] == 0
        assert first["ppo/policy_loss"] == pytest.approx(0, abs=1e-5), "the mean of whitened advantages"


def test_ppo_starts_at_the_reference_and_draws_anew_only_when_its_replies_are_used_up(trained) -> None:
    run = trained("ppo", steps=9, **SMALL["ppo"])
    metrics = [step["metrics"] for step in run.steps]
    assert metrics[0]["ppo/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics[0]["ppo/clip_fraction"] == 0
    assert len({m["ppo/kl_weight"] for m in metrics[:4]}) == 1
    assert [m["train/flops"] > 4 * metrics[1]["train/flops"] / 3 for m in metrics] == [
        number % 4 == 0 for number in range(9)
    ], "only the step that replies were drawn for pays for them"


def test_ppo_learns_which_of_two_answers_is_the_right_one(trained, tmp_path: Path) -> None:
    """Fine-tuning leaves it undecided between them; only what the check says of its own replies tells them apart."""
    names = [f"Is {a}{b}?" for a in "abcdefghij" for b in "klmnopqrst"]
    undecided = [{"question": name, "answer": f"#### {number}"} for name in names for number in (1, 2)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in undecided))
    trained("sft", steps=60, batch_size=16, data=str(tmp_path), out=str(tmp_path))
    asked = [{"prompt": name, "answer": "1"} for name in names]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    (tmp_path / "gsm8k.jsonl").unlink()
    run = trained(
        "ppo", steps=100, batch_size=16, learning_rate=3e-3, max_reply=8, kl_weight=0.0, data=str(tmp_path),
        out=str(tmp_path), from_weight="sft",
    )  # fmt: skip
    rewards = [step["metrics"]["ppo/reward"] for step in run.steps]
    assert 0.2 < rewards[0] < 0.8
    assert sum(rewards[-8:]) / 8 > 0.95


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_a_stage_resumed_from_a_checkpoint_goes_on_bit_equal(trained, tmp_path: Path, stage: str) -> None:
    flags = {"steps": 7, "learning_rate": 1e-3, "dropout": 0.1, **SMALL.get(stage, {})}
    whole = trained(stage, **flags, out=str(tmp_path), checkpoint_freq=3)
    rest = trained(stage, **flags, resume=str(tmp_path / stage / "checkpoint_000003.pt"))
    assert rest.losses == whole.losses[3:]
    assert [s["metrics"] for s in rest.steps] == [s["metrics"] for s in whole.steps[3:]]
    assert rest.logged("eval/mean_acc") == whole.logged("eval/mean_acc")


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_reading_ahead_changes_nothing_also_over_a_resume(trained, tmp_path: Path, stage: str) -> None:
    plain = trained(stage, steps=5)
    ahead = trained(stage, steps=5, prefetch=True, out=str(tmp_path), checkpoint_freq=2)
    rest = trained(stage, steps=5, prefetch=True, resume=str(tmp_path / stage / "checkpoint_000002.pt"))
    assert ahead.losses == plain.losses
    assert rest.losses == plain.losses[2:]


@pytest.mark.parametrize("stage", ["midtrain", "sft", "dpo", "ppo"])
def test_judging_and_sampling_leave_the_losses_bit_equal(trained, stage: str) -> None:
    flags = {"steps": 5, "dropout": 0.2, **SMALL.get(stage, {})}
    assert trained(stage, **flags, eval_freq=1, generate_freq=1).losses == trained(stage, **flags).losses


def test_each_stage_starts_from_the_former_ones_weights(trained, tmp_path: Path) -> None:
    out = str(tmp_path)
    trained("pretrain", steps=2, out=out)
    before = torch.load(tmp_path / "pretrain" / "checkpoint_000002.pt", weights_only=True)["weights"]
    run = trained("sft", steps=1, learning_rate=1e-9, weight_decay=0.0, out=out, from_weight="pretrain")
    after = torch.load(tmp_path / "sft" / "checkpoint_000001.pt", weights_only=True)["weights"]
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight)
    assert run.begun["config"]["from_weight"] == "pretrain"
    path = str(tmp_path / "sft" / "checkpoint_000001.pt")
    assert trained("dpo", steps=1, from_weight=path, n_layer=2).begun["model_facts"]["layers"] == 1, "weights decide"


def test_weights_that_are_missing_or_of_another_kind_are_refused_in_one_line(trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights at") as caught:
        trained("sft", out=str(tmp_path), from_weight="midtrain")
    assert "python -m trainer midtrain" in caught.value.remedy
    trained("pretrain", steps=1, out=str(tmp_path))
    path = tmp_path / "pretrain" / "checkpoint_000001.pt"
    state = torch.load(path, weights_only=True)
    assert state["tokenizer"] == IDENTITY
    torch.save({**state, "tokenizer": "bpe, 50257"}, path)
    with pytest.raises(UserError, match="trained with the tokenizer 'bpe, 50257'"):
        trained("sft", out=str(tmp_path), from_weight="pretrain")
    torch.save(state, path)
    with pytest.raises(UserError, match="does not fit the weights of"):
        trained("sft", from_weight=str(path), n_layer=3, origins={"n_layer": "flag"})
    state["weights"].pop("head.weight")
    torch.save(state, path)
    with pytest.raises(UserError, match="not those of this model"):
        trained("sft", from_weight=str(path))


def test_a_step_without_finite_gradients_is_left_out_and_marked(trained, monkeypatch) -> None:
    poison(monkeypatch, at={3})
    run = trained("pretrain", steps=5)
    marks = [step["metrics"].get("train/skipped_steps") for step in run.steps]
    assert marks == [None, None, 1, 1, 1]
    assert math.isnan(run.steps[2]["loss"])
    assert all(math.isfinite(step["loss"]) for step in run.steps[3:]), "the weights were not touched"


def test_without_finite_gradients_training_stops_by_option_or_when_there_are_none_for_long(
    trained, monkeypatch
) -> None:
    poison(monkeypatch, at={3})
    with pytest.raises(UserError, match="not finite at step 3"):
        trained("pretrain", steps=5, nan_loss="stop")
    poison(monkeypatch, at=set(range(5, 100)))
    with pytest.raises(UserError, match="not finite: 20 steps in a row, up to step 24"):
        trained("pretrain", steps=50)


def test_on_a_device_the_optimizer_itself_leaves_the_step_out_and_nobody_waits() -> None:
    """The way of a GPU, on fused AdamW for the CPU."""
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, fused=True)
    watch = NonFiniteGuard("skip", torch.device("cpu"))
    watch.on_cpu = False
    for step, gradient in enumerate((1.0, math.nan, 1.0, math.nan), start=11):
        weight.grad = torch.full((4,), gradient)
        before = weight.detach().clone()
        watch.step(optimizer, weight.grad.norm(), step)
        assert torch.equal(before, weight) == math.isnan(gradient)
    assert torch.isfinite(weight).all()
    assert watch.metrics()["train/skipped_steps"] == 2
    copy.deepcopy(watch).check(20)  # Two steps skipped end nothing, unless it is asked to.
    watch.policy = "stop"
    with pytest.raises(UserError, match="not finite at step 12"):  # Not 20, where somebody looked.
        watch.check(20)


REAL_LOSS = Stage.loss


def poison(monkeypatch: pytest.MonkeyPatch, at: set[int]) -> None:
    """NaN losses at these calls."""
    real: Any = REAL_LOSS
    calls: list[int] = []

    def loss(self, learner, batch):
        calls.append(1)
        value, metrics = real(self, learner, batch)
        return value * (math.nan if len(calls) in at else 1.0), metrics

    monkeypatch.setattr(Stage, "loss", loss)


def test_tokens_that_were_prepared_before_are_used_again_and_change_nothing(trained, tmp_path: Path) -> None:
    first = trained("sft", steps=3, use_prepared=True, prepared=str(tmp_path))
    assert len(list(tmp_path.glob("prepared_*.pt"))) == 1
    files = [(path, path.stat().st_mtime_ns) for path in tmp_path.iterdir()]
    again = trained("sft", steps=3, use_prepared=True, prepared=str(tmp_path))
    assert [(path, path.stat().st_mtime_ns) for path in tmp_path.iterdir()] == files
    assert again.losses == first.losses == trained("sft", steps=3).losses
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/prepared_"):
        trained("sft", steps=1, use_prepared=True, prepared=str(tmp_path / "file"))


def test_another_number_of_ranks_cannot_resume(trained, tmp_path: Path) -> None:
    trained("sft", steps=1, out=str(tmp_path))
    path = tmp_path / "sft" / "checkpoint_000001.pt"
    torch.save({**torch.load(path, weights_only=True), "world_size": 2}, path)
    with pytest.raises(UserError, match="written with world_size = 2, this run has 1"):
        trained("sft", steps=2, resume=str(path))
