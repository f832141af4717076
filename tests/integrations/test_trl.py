# ruff: noqa: E501 - scripts and tables read better on one line
"""The real TRL, reporting to W&B as it always does, under capture."""


def test_a_trl_trainer_reports_to_the_captured_wandb(captured, listener) -> None:
    captured("""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=2))
    arguments = SFTConfig(output_dir="out", max_steps=6, logging_steps=2, report_to="wandb", run_name="trl", use_cpu=True,
                          bf16=False, per_device_train_batch_size=2, disable_tqdm=True, save_strategy="no", max_length=16)
    data = Dataset.from_dict({"text": ["a b c a b c"] * 32})
    SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer).train()
    import wandb
    wandb.log({"completions": wandb.Table(columns=["step", "prompt"], data=[[1, "x"]])})
    """, TOKENIZERS_PARALLELISM="false")  # fmt: skip
    (run_id,) = listener.run_ids()
    losses = [row for row in listener.rows(run_id) if "train/loss" in row.metrics]
    assert [(row.step, row.metrics["train/global_step"]) for row in losses] == [(0, 2), (1, 4), (2, 6)]
    assert {"train/entropy", "train/grad_norm", "train/learning_rate"} <= set(losses[0].metrics)
    texts = [row.metrics for row in listener.rows(run_id, ("text",))]
    assert texts == [{"completions": "step\tprompt\n1\tx"}]
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.config["hidden_size"]) == ("huggingface", "trl", 16)
