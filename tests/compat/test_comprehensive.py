# ruff: noqa: E501 - scripts and tables read better on one line
import math

import pytest
import torch

from sidecar.client import run as runs
from sidecar.client.compat import ComprehensiveWandbLogger


@pytest.fixture
def logger() -> ComprehensiveWandbLogger:
    return ComprehensiveWandbLogger(project="codelupe", name="qwen_run_1", config={"LORA_R": 8}, enabled=True)


def test_training_and_batch_metrics(logger, last) -> None:
    logger.log_training_metrics(train_loss=1.0, eval_loss=800.0, learning_rate=1e-4, epoch=0.5, step=10, accuracy=0.5)
    logger.log_batch_metrics(batch_loss=2.0, batch_size=4, learning_rate=1e-4, grad_norm=0.8, step=10)
    found = last(logger.run)
    assert found["train/perplexity"] == pytest.approx(math.e)
    assert found["eval/perplexity"] == math.inf
    assert found["train/accuracy"] == 0.5
    assert found["batch/perplexity"] == pytest.approx(math.exp(2))
    assert (found["batch/size"], found["batch/grad_norm"], found["train/epoch"]) == (4, 0.8, 0.5)


def test_gradient_and_weight_metrics_are_those_of_the_model(logger, last) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 2))
    model(torch.randn(4, 8)).pow(2).mean().backward()
    logger.log_gradient_metrics(model)
    logger.log_weight_metrics(model)
    found = last(logger.run)
    norms = [p.grad.norm().item() for p in model.parameters()]
    assert found["gradients/global_norm"] == pytest.approx(math.sqrt(sum(n * n for n in norms)), rel=1e-4)
    assert found["gradients/mean_norm"] == pytest.approx(sum(norms) / 4, rel=1e-4)
    assert (found["gradients/max_norm"], found["gradients/min_norm"]) == pytest.approx((max(norms), min(norms)))
    flat = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "weight" in name]).double()
    assert found["weights/global_mean"] == pytest.approx(flat.mean().item(), abs=1e-6)
    assert found["weights/global_std"] == pytest.approx(flat.std(correction=0).item(), rel=1e-5)
    assert found["weights/0.weight/mean"] == pytest.approx(model[0].weight.mean().item(), abs=1e-6)
    assert "gradients/0.weight" in found


def test_the_deviation_of_weights_around_one_is_not_lost_in_rounding(logger, last) -> None:
    norm = torch.nn.LayerNorm(4096)
    with torch.no_grad():
        norm.weight += 1e-4 * torch.randn(4096, generator=torch.Generator().manual_seed(1))
    logger.log_weight_metrics(norm)
    expected = norm.weight.double().std(correction=0).item()
    found = last(logger.run)
    assert found["weights/weight/std"] == pytest.approx(expected, rel=1e-3)
    assert found["weights/global_std"] == pytest.approx(expected, rel=1e-3)


def test_data_metrics_are_exact_on_ten_samples(logger, last) -> None:
    logger.log_data_quality_metrics(
        total_samples=10, avg_quality_score=0.7, language_distribution={"python": 6, "rust": 4}, avg_code_length=120.0,
        security_stats={"malicious": 1, "secrets": 2, "license": 2},
    )  # fmt: skip
    logger.log_dataset_stats(train_size=90, eval_size=10, avg_tokens_per_sample=55.5, max_tokens=100, min_tokens=5)
    found = last(logger.run)
    assert (found["data/total_samples"], found["data/language_python"], found["data/language_rust_percent"]) == (10, 6, 40)
    assert (found["data/blocked_malicious"], found["data/blocked_secrets"], found["data/blocked_license"]) == (1, 2, 2)
    assert found["data/blocked_total"] == 5
    assert found["data/pass_rate"] == pytest.approx(100 * 10 / 15)
    assert (found["dataset/total_size"], found["dataset/train_eval_ratio"]) == (100, 9.0)


def test_what_has_no_denominator_is_absent_not_zero(logger, last) -> None:
    logger.log_dataset_stats(train_size=90, eval_size=0, avg_tokens_per_sample=1.0, max_tokens=1, min_tokens=1)
    logger.log_training_progress(5, 0, 1, 0, None)
    found = last(logger.run)
    assert "dataset/train_eval_ratio" not in found
    assert "progress/step_percent" not in found
    assert "progress/eta_minutes" not in found


def test_performance_progress_code_continuous_and_custom(logger, last) -> None:
    logger.log_performance_metrics(100.0, 5000.0, 0.04, data_loading_time=0.01, forward_time=0.02, backward_time=0.03)
    logger.log_training_progress(current_step=50, total_steps=200, epoch=1, total_epochs=2, eta_seconds=7200)
    logger.log_code_metrics(avg_lines_of_code=12.5, avg_complexity=3, source="def f(): pass")
    logger.log_continuous_training_state(3, 3, 991, 12345, 1.5)
    logger.log_custom({"custom/my_metric": 7}, step=9)
    found = last(logger.run)
    assert found["performance/batch_time_ms"] == 40.0
    assert found["performance/data_loading_time_ms"] == 10.0
    assert (found["progress/step_percent"], found["progress/epoch_percent"]) == (25.0, 50.0)
    assert (found["progress/eta_minutes"], found["progress/eta_hours"]) == (120.0, 2.0)
    assert found["code/avg_lines"] == 12.5
    assert "code/source" not in found
    assert logger.run.rejected["text_not_a_number"] == 1
    assert (found["continuous/run_number"], found["continuous/uptime_hours"]) == (3, 1.5)
    assert found["custom/my_metric"] == 7


def test_model_configuration_is_in_the_runs_config(logger, listener) -> None:
    logger.log_model_config("Qwen", 1000, 100, lora_r=8, lora_alpha=16, batch_size=4, learning_rate=2e-5, max_length=512)
    logger.finish()
    state = listener.projector(logger.run.id)[0].state
    assert state.config["model/name"] == "Qwen"
    assert state.config["model/trainable_percent"] == 10.0
    assert state.config["hyperparams/max_length"] == 512
    assert state.config["LORA_R"] == 8
    assert (state.facts["params"], state.facts["trainable_params"]) == (1000, 100)


def test_many_languages_are_bounded(logger, last) -> None:
    with pytest.warns(UserWarning, match="50 languages"):
        logger.log_data_quality_metrics(60, 0.5, {f"l{i}": 1 for i in range(60)}, 1.0)
    found = last(logger.run)
    assert found["data/language_other"] == 10
    shares = [value for name, value in found.items() if name.endswith("_percent")]
    assert sum(shares) == pytest.approx(100.0, abs=0.01)
    assert len(shares) == 51


def test_disabled_is_nothing_at_all() -> None:
    logger = ComprehensiveWandbLogger("p", enabled=False)
    logger.log_training_metrics(train_loss=1.0)
    logger.log_model_config("m", 1, 1, 1, 1, 1, 1.0, 1)
    logger.log_system_metrics()
    logger.finish()
    assert logger.run is None
    assert runs.current() is None
