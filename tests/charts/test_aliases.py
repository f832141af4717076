"""Names found in the wild."""

import pytest

from sidecar import aliases
from sidecar.charts import data
from sidecar.metrics import METRICS

LOSS = ["train_loss", "loss", "train/loss", "Loss/train", "loss_metrics/global_avg_loss", "lm loss"]
SPEED = ["train/tok_per_sec", "efficiency/tokens_per_sec", "train/tokens_per_second", "tokens_per_second",
         "tok_per_sec", "throughput(tps)"]
MMLU = ["mmlu_acc", "eval/mmlu", "eval/mmlu_acc", "MMLU", "eval/MMLU/acc", "benchmark/mmlu_accuracy", "val/mmlu_acc"]


@pytest.mark.parametrize(("names", "known"), [
    (LOSS, "train/loss"), (SPEED, "train/tokens_per_second"), (MMLU, "eval/mmlu_acc"),
    (["val_loss", "eval/loss", "val/loss", "eval_loss", "valid/loss"], "val/loss"),
    (["ARC-Easy", "arc_easy_acc", "eval/arc_easy", "arc_e_acc"], "eval/arc_easy_acc"),
    (["gsm8k_acc", "GSM8K"], "eval/gsm8k_acc"),
    (["humaneval_acc", "HumanEval", "human_eval/pass@1"], "eval/humaneval_acc"),
    (["lr", "train/lr", "learning_rate"], "train/learning_rate"),
    (["mfu", "train/mfu", "mfu(%)"], "train/mfu_reported"),
    (["step", "iter", "train/global_step", "trainer/global_step"], "train/global_step"),
])  # fmt: skip
def test_every_known_spelling_leads_to_one_name(names: list[str], known: str) -> None:
    assert {aliases.canonical(name) for name in names} == {known}


def test_a_name_nobody_knows_stays_what_it_is() -> None:
    for name in ("my/metric", "mmlu_loss", "eval/mmlu_acc_normalized", "eval/mmlu_stderr", "", "train/loss_ema"):
        assert aliases.canonical(name) == name


STANDS_IN = {"train/num_tokens_seen", "rewards/accuracy", "val/rewards_accuracy"}
"""Catalogue names with a meaning of their own, which the charts also take for the general one."""


def test_no_alias_takes_a_name_away_that_the_charts_know() -> None:
    for name in data.TRACKED | {name for name in METRICS if "{" not in name and name not in aliases.metrics.ALIASES}:
        if name in data.TRACKED or name.startswith(("train/", "system/", "dataset/")) and name not in STANDS_IN:
            assert aliases.canonical(name) == name


def test_every_exact_alias_is_written_in_lower_case_so_that_it_can_be_found() -> None:
    assert [name for name in aliases.WILD if name != name.lower()] == []


def test_a_captured_rows_own_step_is_preferred_to_the_count_of_calls() -> None:
    assert aliases.step_of({"iter": 250, "train/loss": 1.0}) == 250
    assert aliases.step_of({"step": 3, "trainer/global_step": 90.0}) == 90
    assert aliases.step_of({"step": float("nan"), "iter": -1, "loss": 2.0}) is None


@pytest.mark.parametrize(("word", "stage"), [
    ("pretraining", "pretrain"), ("Midtraining", "midtrain"), ("chat_sft", "sft"), ("SFT", "sft"), ("grpo", "rl"),
    ("my own stage", "my own stage"), ("", None), (None, None), (7, None),
])  # fmt: skip
def test_stages_have_one_short_form(word: object, stage: str | None) -> None:
    assert aliases.stage_of(word) == stage


def test_settings_are_found_by_the_names_people_use_nested_or_not() -> None:
    assert aliases.setting("depth", aliases.flat({"model": {"n_layer": 12}})) == 12
    assert aliases.setting("width", aliases.flat({"hidden_size": {"value": 768}})) == 768
    assert aliases.setting("batch_size", aliases.flat({"hyperparams/batch_size": 4})) == 4
    assert aliases.setting("depth", {"n_layer": "twelve"}, {"layers": 6}) == 6
    assert aliases.setting("learning_rate", {}) is None
