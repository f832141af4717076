"""A training that sends every number there is, by the calls that users make. Run as a script under a sidecar."""

import sys
import time
import warnings

import torch

import sidecar
from sidecar.client.compat import (
    ComprehensiveWandbLogger,
    DatasetTracker,
    enhance_wandb_logging,
    log_evaluation_metrics_3d,
)  # fmt: skip
from sidecar.client.run import Run

STEPS, STEP_SECONDS = 24, 0.05
MORE = {
    "train/lr_multiplier": 0.5, "train/learning_rate/1": 0.1, "batch/loss": 2.0, "batch/perplexity": 7.4,
    "batch/size": 4, "batch/grad_norm": 1.0, "train/num_loss_tokens": 30, "train/loss_weight": 4,
    "train/skipped_steps": 0,
    "rewards/chosen": 0.2, "rewards/rejected": 0.1, "rewards/accuracy": 0.6, "rewards/margin": 0.1, "dpo/kl": 0.01,
    "ppo/reward": 0.5, "ppo/response_length": 12.0, "ppo/kl": 0.02, "ppo/kl_weight": 0.2, "ppo/policy_loss": 0.1,
    "ppo/value_loss": 0.3, "ppo/entropy": 1.5, "ppo/clip_fraction": 0.1,
}  # fmt: skip
"""What stages other than pretraining add to a step."""
NOW_AND_THEN = {
    "val/loss": 2.1, "val/perplexity": 8.2, "val/accuracy": 0.4, "val/bits_per_byte": 1.1, "val/rewards_margin": 0.1,
    "val/rewards_accuracy": 0.6, "samples/length": 80.0, "samples/distinct_2": 0.9, "samples/repetition": 0.1,
    "samples/entropy": 4.0, "samples/perplexity": 20.0, "system/gpu_0_memory_allocated_gb": 1.5,
    "system/gpu_0_memory_reserved_gb": 2.0, "system/gpu_0_memory_peak_gb": 2.5, "system/gpu_0_alloc_retries": 0,
    "system/gpu_0_ooms": 0, "data/unreadable": 1,
}  # fmt: skip
"""The allocator's facts are sent by hand: there need be no GPU here."""


def call_all(logger: ComprehensiveWandbLogger) -> Run:
    """One call of each of the compat functions, with every number they take."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    model(torch.ones(1, 4)).sum().backward()
    logger.log_training_metrics(train_loss=1.0, eval_loss=1.5, learning_rate=1e-3, epoch=0.5, step=1, grad_norm=0.5)
    logger.log_batch_metrics(1.0, 4, 1e-3, 0.5)
    logger.log_gradient_metrics(model)
    logger.log_weight_metrics(model)
    logger.log_data_quality_metrics(10, 0.5, {"python": 10}, 9.0, {"malicious": 1, "secrets": 1, "license": 1})
    logger.log_dataset_stats(9, 1, 5.0, 9, 1)
    logger.log_performance_metrics(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    logger.log_code_metrics(1.0, 2.0, 3.0, 4.0)
    logger.log_training_progress(1, 10, 1, 2, 60.0)
    logger.log_continuous_training_state(1, 1, 7, 10, 0.5)
    logger.log_model_config("qwen", 50, 10, 16, 32, 4, 1e-3, 128)
    logger.log_custom({"custom/mine": 1.0})
    run = logger.run
    assert run is not None
    enhance_wandb_logging(
        run, 2, "cpu", 0.5, 10.0, 40.0, 1e9, 60.0, "sft", "MMLU", train_loss=1.0, lrm=0.5, num_tokens=9
    )
    accuracies = {"mmlu_acc": 0.5, "arc_easy_acc": 0.5, "gsm8k_acc": 0.5, "humaneval_acc": 0.5}
    log_evaluation_metrics_3d(run, 3, accuracies, "sft")
    return run


def instruments(run: Run) -> None:
    """Our own calls: steps with phases, a watched model, a mixture, an evaluation, samples, a checkpoint."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    run.watch(model, optimizer, every=4, histograms=True, activations=True, scaler=scaler)
    run.time_optimizer(optimizer)
    tracker = DatasetTracker(["MMLU", "GSM8K"], [10, 20])
    for step, x in enumerate(run.data([torch.randn(4, 8)] * STEPS), 1):
        with run.phase("forward"):
            losses = model(x).square().squeeze(1)
        with run.phase("backward"):
            scaler.scale(losses.mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        tracker.increment("MMLU", 2, tokens=20)
        tracker.increment("GSM8K", 2, tokens=10)
        tracker.log_step(run, step, log_every=1)
        run.dataset_loss(["MMLU", "MMLU", "GSM8K", "GSM8K"], losses)
        run.step(step, loss=losses.mean(), learning_rate=0.01, grad_norm=1.0, tokens=32, samples=4,
                 epoch=step / (STEPS // 2), metrics=MORE)  # fmt: skip
        time.sleep(STEP_SECONDS)
    with run.phase("evaluation"):
        run.log(NOW_AND_THEN)
    run.text("sample/once upon", "a time")
    run.checkpoint(STEPS, seconds=0.1, bytes=1000, name="last")


def main() -> None:
    warnings.simplefilter("ignore")
    facts = {"params": 10**6, "layers": 2, "heads": 4, "head_dim": 16, "seq_len": 64, "peak_flops": 1e12}
    run = sidecar.init("p", run_id="ours", total_steps=2 * STEPS, model_facts=facts)
    instruments(run)
    run.finish()
    call_all(ComprehensiveWandbLogger("p", name="theirs")).finish()


if __name__ == "__main__":
    sys.exit(main())
