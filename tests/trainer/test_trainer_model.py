"""The model's shape, its price in FLOPs, and the learning rate's curve."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import Config
from trainer.flops import flops_per_token, measured_peak_flops
from trainer.model import GPT, ModelConfig, rotary_table, rotate
from trainer.optimizer import build_optimizer
from trainer.schedule import learning_rate_at, plan

SMALL = ModelConfig(vocab_size=64, n_layer=2, n_head=4, n_embd=32, seq_len=16)


def woken(config: ModelConfig) -> GPT:
    """A model whose zero-initialised matrices say something."""
    torch.manual_seed(0)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_a_token_sees_none_that_come_after_it() -> None:
    model = woken(SMALL).eval()
    tokens = torch.randint(0, 64, (1, 16))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 64
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_rotation_makes_scores_depend_on_distance_only() -> None:
    cos, sin = rotary_table(32, 8)
    q, k = torch.randn(1, 1, 1, 8).expand(1, 1, 32, 8), torch.randn(1, 1, 1, 8).expand(1, 1, 32, 8)
    scores = rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(-1, -2)
    torch.testing.assert_close(scores[0, 0, 3, 1], scores[0, 0, 20, 18])
    assert not torch.allclose(scores[0, 0, 3, 1], scores[0, 0, 20, 10])


def test_tied_weights_are_one_matrix_that_counts_once() -> None:
    tied, free = GPT(ModelConfig(tie_weights=True)), GPT(ModelConfig())
    assert tied.head.weight is tied.embedding.weight
    assert free.params() - tied.params() == 320 * 128
    assert tied.matmul_params() == free.matmul_params()


@pytest.mark.parametrize("tie_weights", [False, True])
def test_flops_per_token_are_those_that_torch_counts_with_full_attention(tie_weights: bool) -> None:
    """The plain ("math") attention shows torch's counter every product, with no credit for the mask."""
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, seq_len=16, tie_weights=tie_weights))
    tokens = torch.randint(0, 320, (3, 16))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    assert counter.get_total_flops() == flops_per_token(model) * tokens.numel()


def test_the_measured_peak_is_a_speed_that_a_product_really_has() -> None:
    threads = torch.get_num_threads()
    peak = measured_peak_flops(10**12, 32, torch.float32, seconds=0.05)  # As many rows as a huge batch has.
    assert 1e8 < peak < 1e14
    assert torch.get_num_threads() == threads


def test_matrices_decay_and_nothing_is_left_out_of_the_optimizer() -> None:
    model = GPT(SMALL)
    groups = build_optimizer(model, Config()).param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == model.trainable_params()
    assert all(p.dim() >= 2 for p in groups[0]["params"])
    assert groups[0]["weight_decay"] == Config().weight_decay


def test_learning_rate_is_the_warm_up_and_cosine_of_the_formula() -> None:
    rates = [learning_rate_at(s, 100, peak=3e-3, warmup=0.1, min_share=0.1) for s in range(100)]
    for s in range(10):
        assert rates[s] == pytest.approx(3e-3 * (s + 1) / 10, rel=1e-9)
    for s in range(10, 100):
        cosine = (1 + math.cos(math.pi * (s - 10) / 89)) / 2
        assert rates[s] == pytest.approx(3e-4 + 2.7e-3 * cosine, rel=1e-9)
    assert max(rates) == rates[9] == rates[10] == 3e-3
    assert rates[-1] == pytest.approx(3e-4, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_a_few_steps_has_a_learning_rate_too(steps: int) -> None:
    rates = [learning_rate_at(s, steps, peak=1.0, warmup=0.1, min_share=0.1) for s in range(steps)]
    assert all(0.1 <= rate <= 1.0 for rate in rates)


def test_long_runs_look_up_as_the_documents_say_and_short_ones_more_often() -> None:
    long, short = plan(Config(steps=50_000), 900), plan(Config(), 900)
    assert (long.eval_freq, long.eval_iters, long.generate_freq) == (500, 100, 1000)
    assert short.total_steps == 300
    assert short.eval_freq == 75
    assert long.epochs == 56
    assert plan(Config(epochs=2.5), 10).total_steps == 25
    assert plan(Config(steps=7, epochs=2.5), 10).total_steps == 7, "steps say it more exactly"
