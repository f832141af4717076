# ruff: noqa: E501 - scripts and tables read better on one line
"""The real Trainer on a tiny random model."""

import math

import pytest

PREAMBLE = """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, EarlyStoppingCallback
    from torch.utils.data import Dataset

    class Tokens(Dataset):
        def __len__(self): return 64
        def __getitem__(self, i):
            ids = torch.arange(i, i + 16) % 50
            return {"input_ids": ids, "labels": ids}

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32))
    def arguments(**more):
        return TrainingArguments(**{**dict(output_dir="out", max_steps=20, per_device_train_batch_size=2, logging_steps=5,
            eval_strategy="steps", eval_steps=10, save_strategy="steps", save_steps=10, use_cpu=True, report_to="none",
            gradient_accumulation_steps=2, disable_tqdm=True), **more})
"""


def test_every_step_carries_samples_and_tokens_over_all_micro_batches(script, listener, tmp_path) -> None:
    script(PREAMBLE + """
    from sidecar.client.integrations.huggingface import SidecarCallback
    Trainer(model, arguments(run_name="tiny"), train_dataset=Tokens(), eval_dataset=Tokens(),
            callbacks=[SidecarCallback(project="hf", stage="sft", watch={"every": 10})]).train()
    """)
    (run_id,) = listener.run_ids()
    projector, _ = listener.projector(run_id)
    steps = listener.rows(run_id, ("step",))
    assert [row.step for row in steps] == list(range(1, 21))
    assert {row.metrics["train/num_samples"] for row in steps} == {4}
    assert {row.metrics["train/num_tokens"] for row in steps} == {64}
    rates = [row.metrics["train/learning_rate"] for row in steps]
    assert rates == pytest.approx([5e-5 * (20 - step) / 20 for step in range(20)])  # Linear, those of the step itself.
    assert rates == [row.metrics["train/learning_rate/1"] for row in steps]
    logs = listener.rows(run_id, ("log",))
    losses = [row for row in logs if "train/loss" in row.metrics]
    assert [row.step for row in losses] == [5, 10, 15, 20]
    evaluations = [row for row in logs if "eval/loss" in row.metrics]
    assert [row.step for row in evaluations] == [10, 20]
    for row in evaluations:
        assert row.metrics["eval/perplexity"] == pytest.approx(math.exp(row.metrics["eval/loss"]))
    saved = listener.rows(run_id, ("checkpoint",))
    assert [row.step for row in saved] == [10, 20]
    assert [row.metrics["checkpoint/path"] for row in saved] == [str(tmp_path / f"out/checkpoint-{step}") for step in (10, 20)]
    assert sum("phase/evaluation" in row.metrics for row in listener.rows(run_id, ("phase",))) == 2
    assert {row.step for row in logs if "gradients/global_norm" in row.metrics} == {10, 20}
    derived = {row.step: row.metrics for row in listener.rows(run_id, ("derived",))}
    assert all(row["performance/optimizer_time_ms"] > 0 for row in derived.values())
    waited = {step for step, row in derived.items() if "performance/data_loading_time_ms" in row}
    assert waited == set(range(1, 21)) - {11}  # Between 10 and 11 lay an evaluation and a checkpoint.
    state = projector.state
    assert (state.project, state.name, state.stage, state.total_steps) == ("hf", "tiny", "sft", 20)
    assert (state.facts["layers"], state.facts["heads"]) == (2, 2)
    assert state.config["per_device_train_batch_size"] == 2
    assert state.config["hidden_size"] == 16


def test_report_to_sidecar_works_once_the_module_is_imported(script, listener) -> None:
    script(PREAMBLE + """
    import sidecar.client.integrations.huggingface
    Trainer(model, arguments(report_to="sidecar", eval_strategy="no"), train_dataset=Tokens()).train()
    """)
    assert len(listener.rows(kinds=("step",))) == 20


def test_a_resumed_training_is_the_same_run_and_what_it_does_again_is_marked(script, listener) -> None:
    """The checkpoint of step 10 knows the run; steps 11 to 14 were done before, and are done again."""
    script(PREAMBLE + """
    from sidecar.client.integrations.huggingface import SidecarCallback
    def trainer(**more):
        return Trainer(model, arguments(**more), train_dataset=Tokens(), eval_dataset=Tokens(),
                       callbacks=[SidecarCallback(project="hf")])
    trainer(max_steps=14).train()
    trainer().train(resume_from_checkpoint="out/checkpoint-10")
    """)
    (run_id,) = listener.run_ids()
    steps = [row.step for row in listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 24)]
    assert steps == [*range(1, 15), *range(11, 21)]
    state = listener.projector(run_id)[0].state
    assert (state.restarts, state.rework_steps, state.tokens, state.tokens_total) == (1, 4, 20 * 64, 24 * 64)


def test_the_documents_callback_works_beside_early_stopping(script, listener) -> None:
    script(PREAMBLE + """
    from sidecar.client.compat import ComprehensiveWandbLogger
    from sidecar.client.integrations.huggingface import WandbMetricsCallback
    logger = ComprehensiveWandbLogger(project="codelupe", name="qwen_run_1", config=vars(arguments()))
    Trainer(model, arguments(load_best_model_at_end=True, metric_for_best_model="eval_loss", max_steps=40,
            learning_rate=0.0), train_dataset=Tokens(), eval_dataset=Tokens(),
            callbacks=[EarlyStoppingCallback(early_stopping_patience=1),
                       WandbMetricsCallback(logger, gradient_log_interval=10)]).train()
    logger.finish()
    """)
    rows = listener.rows(kinds=("log",))
    names = {name for row in rows for name in row.metrics}
    assert {"train/loss", "train/perplexity", "train/learning_rate", "train/epoch", "train/grad_norm",
            "eval/loss", "eval/perplexity", "gradients/global_norm", "weights/global_mean"} <= names  # fmt: skip
    assert max(row.step for row in rows) == 20


@pytest.mark.slow
def test_both_ranks_report_their_own_steps_and_only_one_the_logs(script, listener) -> None:
    script(PREAMBLE + """
    from sidecar.client.integrations.huggingface import SidecarCallback
    Trainer(model, arguments(max_steps=6, save_strategy="no", eval_strategy="no", logging_steps=2, ddp_backend="gloo"),
            train_dataset=Tokens(), callbacks=[SidecarCallback(project="hf")]).train()
    """, ranks=2)
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 12)
    assert sorted((row.rank, row.step) for row in steps) == [(rank, step) for rank in (0, 1) for step in range(1, 7)]
    assert {row.metrics["train/num_tokens"] for row in steps} == {64}
    assert {row.rank for row in listener.rows(run_id, ("log",))} == {0}


@pytest.mark.slow
def test_both_ranks_of_a_resumed_training_go_on_as_the_same_run(script, listener) -> None:
    """Two launches of two ranks: the checkpoint of step 4 tells each rank which run it was."""
    text = PREAMBLE + """
    import os
    from sidecar.client.integrations.huggingface import SidecarCallback
    more = dict(max_steps=STEPS, save_steps=4, eval_strategy="no", logging_steps=2, ddp_backend="gloo")
    Trainer(model, arguments(**more), train_dataset=Tokens(), callbacks=[SidecarCallback(project="hf")]
            ).train(resume_from_checkpoint=FROM)
    """
    script(text.replace("STEPS", "6").replace("FROM", "None"), ranks=2)
    script(text.replace("STEPS", "8").replace("FROM", "'out/checkpoint-4'"), ranks=2, launch_id="again")
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 20)
    done = [*range(1, 7), *range(5, 9)]
    assert sorted((row.rank, row.step) for row in steps) == sorted((rank, step) for rank in (0, 1) for step in done)
    state = listener.projector(run_id)[0].state
    assert (state.restarts, state.rework_steps, state.tokens, state.tokens_total) == (1, 2, 2 * 8 * 64, 2 * 10 * 64)
    assert {rank.state for rank in state.ranks.values()} == {"finished"}


def test_transformers_own_wandb_callback_works_on_the_capture(captured, listener) -> None:
    captured(PREAMBLE + """
    Trainer(model, arguments(report_to="wandb", run_name="under-capture", eval_strategy="no"), train_dataset=Tokens()).train()
    """, TOKENIZERS_PARALLELISM="false")
    rows = [row for row in listener.rows(kinds=("log",)) if "train/loss" in row.metrics]
    assert [row.metrics["train/global_step"] for row in rows] == [5, 10, 15, 20]
    assert [row.step for row in rows] == [0, 1, 2, 3]
    (run_id,) = listener.run_ids()
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.captured) == ("huggingface", "under-capture", "wandb")
    assert state.config["hidden_size"] == 16
