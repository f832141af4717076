# ruff: noqa: E501 - scripts and tables read better on one line
import math
import sys
import warnings

import pytest
import torch

from sidecar.client.compat import calculate_mfu, evaluate, generate_samples, get_grad_norm, model_flops_per_token


class Toy(torch.nn.Module):
    """Predicts a fixed token; its loss is what it is told."""

    def __init__(self, losses=(1.0,)) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.losses, self.calls = list(losses), 0

    def forward(self, x, y=None):
        if y is None:
            return torch.nn.functional.one_hot(x, 256).float()
        loss = torch.tensor(self.losses[self.calls % len(self.losses)])
        self.calls += 1
        logits = torch.zeros(*x.shape, 4)
        logits[..., 2] = 1.0
        return logits, loss + 0 * self.weight

    def generate(self, ids, max_new_tokens, temperature=1.0):
        self.temperature = temperature
        new = torch.randint(97, 123, (1, max_new_tokens))
        return torch.cat([ids, new], dim=1)


class Loader:
    def __init__(self, batches):
        self.batches, self.read, self.asked = batches, 0, []

    def get_batch(self, split, batch_size=None):
        self.asked.append((split, batch_size))
        self.read += 1
        return self.batches[(self.read - 1) % len(self.batches)]


X = torch.zeros(2, 3, dtype=torch.long)
Y = torch.tensor([[2, 2, 0], [2, -100, -100]])


def test_perplexity_is_exp_of_the_mean_and_ignored_tokens_do_not_count() -> None:
    loader = Loader([(X, Y)])
    found = evaluate(Toy((1.0, 3.0)), loader, 2, batch_size=8)
    assert found["val/loss"] == 2.0
    assert found["val/perplexity"] == pytest.approx(math.exp(2.0))
    assert found["val/accuracy"] == 0.75
    assert loader.asked == [("val", 8), ("val", 8)]


def test_exactly_as_many_batches_are_read_as_asked_and_the_mode_is_restored_even_after_an_error() -> None:
    model = Toy().train()
    assert evaluate(model, [(X, Y)] * 10, 3)["val/loss"] == 1.0
    assert model.calls == 3
    assert model.training
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, _broken(), 3)
    assert model.training
    assert not Toy().eval().training or evaluate(model, [], 5) == {}


def _broken():
    yield X, Y
    raise RuntimeError("broken")


def test_the_gradient_norm_is_the_global_one_and_skips_what_has_none() -> None:
    model = torch.nn.Linear(3, 4)
    assert get_grad_norm(model) == 0.0
    model(torch.ones(2, 3)).sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    assert get_grad_norm(model) == pytest.approx(expected, rel=1e-6)
    model.bias.grad = None
    assert get_grad_norm(model) == pytest.approx(model.weight.grad.norm().item(), rel=1e-6)


def test_samples_are_bytes_without_a_tokenizer_and_training_random_numbers_do_not_move() -> None:
    model = Toy().train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    samples = generate_samples(model, ["Once upon", "To be"], None, max_tokens=5, temperature=0.3)
    assert model.temperature == 0.3
    assert torch.equal(torch.rand(3), expected)
    assert set(samples) == {"Once upon", "To be"}
    assert samples["Once upon"].startswith("Once upon")
    assert len(samples["To be"]) == 10
    assert len(generate_samples(model, ["To be"], 7)["To be"]) == 12
    assert model.temperature == 1.0
    assert model.training


def test_a_tokenizer_is_used_where_there_is_one() -> None:
    class Tokenizer:
        def encode(self, text):
            return [ord(char) for char in text]

        def decode(self, ids):
            return "".join(chr(i) for i in ids).upper()

    assert generate_samples(Toy(), ["ab"], Tokenizer(), 2)["ab"].startswith("AB")


def test_mfu_is_percent_of_the_dense_peak_of_that_data_type() -> None:
    assert calculate_mfu(6e9, 1000.0, "NVIDIA A100-SXM4-80GB") == pytest.approx(100 * 6e12 / 312e12)
    assert calculate_mfu(6e9, 1000.0, "NVIDIA H100 80GB HBM3") == pytest.approx(100 * 6e12 / 989.4e12)
    assert calculate_mfu(6e9, 1000.0, "NVIDIA H100 80GB HBM3", dtype="fp8") == pytest.approx(100 * 6e12 / 1979e12)


def test_an_unknown_device_has_no_mfu_and_says_so_once() -> None:
    with pytest.warns(UserWarning, match="no peak"):
        assert calculate_mfu(6e9, 1000.0, "cpu") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculate_mfu(6e9, 1000.0, "cpu") is None
        assert calculate_mfu(6e9, 0.0, "NVIDIA H100") is None


def test_frozen_parameters_count_four_flops_and_trainable_six() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 5, bias=False))
    assert model_flops_per_token(model) == 6 * 150
    model[0].weight.requires_grad_(False)
    assert model_flops_per_token(model) == 4 * 100 + 6 * 50


def test_the_functions_alone_load_nothing_of_the_sidecar_process() -> None:
    import subprocess

    code = (
        "import sys; from sidecar.client.compat import calculate_mfu; calculate_mfu(1.0, 1.0, 'NVIDIA H100');"
        "bad = [m for m in sys.modules if m.startswith(('sidecar.state', 'sidecar.fold', 'fastapi', 'torch', 'wandb'))];"
        "print(bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
