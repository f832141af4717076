# ruff: noqa: E501 - scripts and tables read better on one line
"""The real TRL: reporting to W&B as it always does, under capture; and with the callback."""

PREAMBLE = """
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=2))
    def trainer(report_to, **more):
        arguments = SFTConfig(output_dir="out", max_steps=6, logging_steps=2, report_to=report_to, run_name="trl",
                              use_cpu=True, bf16=False, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                              disable_tqdm=True, save_strategy="no", max_length=16)
        data = Dataset.from_dict({"text": ["a b c a b c"] * 32})
        return SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer, **more)
"""
TOKENS = 6 * 2 * 2 * 7
"""Steps, micro-batches, samples; six words and the end of the text."""


def test_a_trl_trainer_reports_to_the_captured_wandb(captured, listener) -> None:
    captured(PREAMBLE + """
    trainer("wandb").train()
    import wandb
    wandb.log({"completions": wandb.Table(columns=["step", "prompt"], data=[[1, "x"]])})
    """, TOKENIZERS_PARALLELISM="false")  # fmt: skip
    (run_id,) = listener.run_ids()
    losses = [row for row in listener.rows(run_id) if "train/loss" in row.metrics]
    assert [(row.step, row.metrics["train/global_step"]) for row in losses] == [(0, 2), (1, 4), (2, 6)]
    assert [row.metrics["train/num_tokens"] for row in losses] == [TOKENS // 3, 2 * TOKENS // 3, TOKENS]
    assert {"train/entropy", "train/grad_norm", "train/learning_rate"} <= set(losses[0].metrics)
    texts = [row.metrics for row in listener.rows(run_id, ("text",))]
    assert texts == [{"completions": "step\tprompt\n1\tx"}]
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.config["hidden_size"]) == ("huggingface", "trl", 16)
    assert (state.tokens, state.tokens_total) == (TOKENS, TOKENS)  # TRL's num_tokens is a running total.


def test_the_callback_counts_tokens_by_step_and_keeps_trls_total_apart(script, listener) -> None:
    script(PREAMBLE + """
    from sidecar.client.integrations.huggingface import SidecarCallback
    trainer("none", callbacks=[SidecarCallback(project="trl")]).train()
    """)
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 6)
    assert [row.metrics["train/num_tokens"] for row in steps] == [TOKENS // 6] * 6
    logs = [row.metrics for row in listener.rows(run_id, ("log",))]
    assert [row["train/num_tokens_seen"] for row in logs if "train/loss" in row] == [TOKENS // 3, 2 * TOKENS // 3, TOKENS]
    assert not any("train/num_tokens" in row for row in logs)
    assert listener.projector(run_id)[0].state.tokens == TOKENS
