# ruff: noqa: E501 - calls of existing scripts stand here as they are written there
"""Calls as existing scripts make them, word for word: every one fits our signature; a whole training loop runs as it is."""

import ast
import inspect
import textwrap
from typing import Any

import pytest
import torch

from sidecar.client import compat
from sidecar.client.integrations.huggingface import WandbMetricsCallback

GUIDE = """
enhance_wandb_logging(wandb_run=wandb_run, step=step, device=device, dt=dt, tokens_per_sec=tok_per_sec, mfu=mfu, flops_so_far=flops_so_far, total_training_time=total_training_time, training_stage="pretraining", dataset_name="FineWeb-EDU", train_loss=debiased_smooth_loss, train_lrm=lrm)
enhance_wandb_logging(wandb_run=wandb_run, step=step, device=device, dt=0.0, tokens_per_sec=0.0, mfu=0.0, flops_so_far=0.0, total_training_time=0.0, training_stage="sft", train_loss=train_loss_item, num_tokens=num_tokens_item, lrm=lrm)
DatasetTracker(task_names, task_sizes)
DatasetTracker.increment(dataset_tracker, current_dataset)
DatasetTracker.log_step(dataset_tracker, wandb_run, step, log_every=10)
log_evaluation_metrics_3d(wandb_run=wandb_run, step=step, metrics=metrics, training_stage="sft")
"""
FIX = """
calculate_mfu(model_flops_per_token, tokens_per_sec, args.device)
"""
IMPLEMENTATION = """
ComprehensiveWandbLogger(project=self.config.WANDB_PROJECT, name=f"qwen_run_{self.state['total_training_runs'] + 1}", config=vars(self.config), enabled=self.config.ENABLE_WANDB)
WandbMetricsCallback(self.wb_logger)
ComprehensiveWandbLogger.log_model_config(wb_logger, model_name=self.config.MODEL_NAME, total_params=total_params, trainable_params=trainable_params, lora_r=self.config.LORA_R, lora_alpha=self.config.LORA_ALPHA, batch_size=self.config.BATCH_SIZE, learning_rate=self.config.LEARNING_RATE, max_length=self.config.MAX_LENGTH)
ComprehensiveWandbLogger.log_dataset_stats(wb_logger, train_size=len(train_dataset), eval_size=len(eval_dataset), avg_tokens_per_sample=sum(token_lengths) / len(token_lengths), max_tokens=max(token_lengths), min_tokens=min(token_lengths))
ComprehensiveWandbLogger.log_data_quality_metrics(wb_logger, total_samples=len(samples), avg_quality_score=sum(quality_scores) / len(quality_scores), language_distribution=dict(language_distribution), avg_code_length=avg_code_length, security_stats=None)
ComprehensiveWandbLogger.log_performance_metrics(wb_logger, samples_per_second=samples_per_second, tokens_per_second=tokens_per_second, batch_time=training_time / (len(samples) / self.config.BATCH_SIZE))
ComprehensiveWandbLogger.log_continuous_training_state(wb_logger, run_number=self.state['total_training_runs'], total_runs=self.state['total_training_runs'], last_trained_id=self.state['last_trained_id'], total_samples_trained=self.state['total_samples_trained'], uptime_hours=uptime_hours)
ComprehensiveWandbLogger.log_custom(wb_logger, {'custom/my_metric': value, 'custom/another_metric': value2}, step=current_step)
ComprehensiveWandbLogger.log_gradient_metrics(wb_logger, model)
ComprehensiveWandbLogger.log_weight_metrics(wb_logger, model)
ComprehensiveWandbLogger.log_training_metrics(wb_logger)
ComprehensiveWandbLogger.log_batch_metrics(wb_logger)
ComprehensiveWandbLogger.log_system_metrics(wb_logger)
ComprehensiveWandbLogger.log_code_metrics(wb_logger)
ComprehensiveWandbLogger.log_training_progress(wb_logger, 1, 10, 1, 2)
ComprehensiveWandbLogger.finish(wb_logger)
"""
TASK = """
Logger(backend=LOG_BACKEND, config={'n_layer': BDH_CONFIG.n_layer}, project=WANDB_PROJECT)
Logger("wandb", "bdh-training")
Logger(backend="wandb", project_name="bdh-training")
Logger(backend, config, project=project, log_dir=log_dir)
Logger.log_metrics(logger, {'train/loss': loss.item()}, step=step)
Logger.log_metrics(logger, metrics=eval_metrics, step=step)
Logger.log_text(logger, name, text, step=step)
Logger.log_histogram(logger, name, values=tensor, step=step)
Logger.finish(logger)
evaluate(model, data_loader, eval_iters=100)
evaluate(model, data_loader, EVAL_ITERS)
get_grad_norm(model)
generate_samples(model, GENERATION_PROMPTS, tokenizer=None)
generate_samples(model, prompts, tokenizer, max_tokens=100, temperature=1.0, top_k=3)
generate_samples(model, prompts, max_tokens=100)
"""
CALLS = [line for text in (GUIDE, FIX, IMPLEMENTATION, TASK) for line in text.strip().splitlines()]
NAMES = {
    "enhance_wandb_logging", "DatasetTracker", "log_evaluation_metrics_3d", "calculate_mfu", "Logger",
    "ComprehensiveWandbLogger", "get_grad_norm", "evaluate", "generate_samples",
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_call_as_existing_scripts_write_it_fits(call: str) -> None:
    (statement,) = ast.parse(call).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    called: Any = compat
    for name in ast.unparse(statement.value.func).split("."):
        called = WandbMetricsCallback if name == "WandbMetricsCallback" else getattr(called, name)
    keywords = {str(keyword.arg): None for keyword in statement.value.keywords}
    inspect.signature(called).bind(*[None] * len(statement.value.args), **keywords)


def test_every_name_is_importable_and_listed() -> None:
    assert set(compat.__all__) >= NAMES
    assert compat.WandbMetricsCallback is WandbMetricsCallback
    shown = {call.partition("(")[0].partition(".")[0] for call in CALLS} - {"WandbMetricsCallback"}
    assert shown == NAMES


LOOP = """
logger = Logger(
    backend=LOG_BACKEND,
    config={
        'n_layer': 1,
        'batch_size': 2,
        'learning_rate': LEARNING_RATE,
        'max_iters': MAX_ITERS,
    },
    project=WANDB_PROJECT,
)

x, y = get_batch("train")
for step in range(start_step, MAX_ITERS):
    # Forward pass
    with ctx:
        logits, loss = model(x, y)

    # Backward pass
    scaler.scale(loss).backward()

    # Log training metrics
    if step % LOG_TRAIN_FREQ == 0:
        grad_norm = get_grad_norm(model)
        logger.log_metrics({
            'train/loss': loss.item(),
            'train/lr': optimizer.param_groups[0]['lr'],
            'train/grad_norm': grad_norm,
            'train/step': step,
        }, step=step)

    # Evaluation
    if step % EVAL_FREQ == 0 and step > 0:
        eval_metrics = evaluate(model, data_loader, EVAL_ITERS)
        logger.log_metrics(eval_metrics, step=step)
        print(f"Step {step}: val_loss={eval_metrics['val/loss']:.4f}, "
              f"val_ppl={eval_metrics['val/perplexity']:.2f}")

    # Generate samples
    if step % GENERATE_FREQ == 0 and step > 0:
        samples = generate_samples(model, GENERATION_PROMPTS, tokenizer=None)
        for name, text in samples.items():
            logger.log_text(name, text, step=step)

    # Optimizer step
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()

    # Get next batch
    x, y = get_batch("train")

logger.finish()
"""


class Bytes(torch.nn.Module):
    """The smallest model that the task's loop can train."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(256, 8), torch.nn.Linear(8, 256)

    def forward(self, x: Any, y: Any = None) -> Any:
        logits = self.head(self.embed(x))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

    def generate(self, ids: Any, max_new_tokens: int) -> Any:
        for _ in range(max_new_tokens):
            ids = torch.cat([ids, self.head(self.embed(ids))[:, -1:].argmax(-1)], dim=1)
        return ids


class Batches:
    def get_batch(self, split: str, batch_size: int = 2) -> Any:
        x = torch.randint(97, 123, (batch_size, 9))
        return x[:, :-1], x[:, 1:]


def test_a_training_loop_that_uses_them_runs_as_it_is_written(listener, capsys) -> None:
    import contextlib

    model = Bytes()
    scope: dict[str, Any] = {
        **{name: getattr(compat, name) for name in ("Logger", "get_grad_norm", "evaluate", "generate_samples")},
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.5), "ctx": contextlib.nullcontext(),
        "scaler": torch.amp.GradScaler("cpu", enabled=False), "data_loader": Batches(), "get_batch": Batches().get_batch,
        "LOG_BACKEND": "tensorboard", "WANDB_PROJECT": "bdh-experiments", "LEARNING_RATE": 0.5, "MAX_ITERS": 21,
        "LOG_TRAIN_FREQ": 5, "EVAL_FREQ": 10, "EVAL_ITERS": 2, "GENERATE_FREQ": 20, "start_step": 0,
        "GENERATION_PROMPTS": ["To be or not to be", "Once upon a time"],
    }  # fmt: skip
    exec(textwrap.dedent(LOOP), scope)
    run = scope["logger"].run
    rows = listener.rows(run.id, ("log",), wait=lambda rows: len(rows) >= 7)
    trained = [row for row in rows if "train/loss" in row.metrics]
    assert [row.step for row in trained] == [0, 5, 10, 15, 20]
    assert trained[1].metrics.keys() == {"train/loss", "train/learning_rate", "train/grad_norm", "train/global_step"}
    assert [row.step for row in rows if row.metrics.keys() == {"val/loss", "val/perplexity", "val/accuracy"}] == [10, 20]
    texts = {name: text for row in listener.rows(run.id, ("text",)) for name, text in row.metrics.items()}
    assert texts.keys() == {"sample/To be or not to be", "sample/Once upon a time"}
    state = listener.projector(run.id)[0].state
    assert (state.project, state.sinks, state.config["max_iters"]) == ("bdh-experiments", ["tensorboard"], 21)
    assert "Step 20: val_loss=" in capsys.readouterr().out
