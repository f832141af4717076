"""Validation numbers against figures worked out by hand, samples and their scores."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.data.batch import IGNORE, Batch
from trainer.data.windows import TokenWindows
from trainer.distributed import World
from trainer.evaluate import TokenSums, evaluate, summary, token_sums
from trainer.generate import continue_tokens, generate_replies, generate_samples, sample_names
from trainer.model import GPT, ModelConfig
from trainer.sample_metrics import distinct_2, entropy, repetition, sample_metrics
from trainer.stage import Stage
from trainer.tokenizer import ASSISTANT_END, BOS

HERE = World(0, 0, 1, torch.device("cpu"))
TINY = ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=16, dropout=0.5)


class Fixed(nn.Module):
    """Says the same logits whatever it is asked."""

    def __init__(self, *logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.calls = list(logits), 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.logits[(self.calls - 1) % len(self.logits)]


def batch_of(targets: list[list[int]]) -> Batch:
    return Batch(torch.zeros(len(targets), len(targets[0]), dtype=torch.int64), torch.tensor(targets))


def test_accuracy_is_exact_and_ignored_targets_count_for_nothing() -> None:
    logits = torch.tensor([[[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]]])
    sums = TokenSums(*token_sums(logits, torch.tensor([[0, 1, 1, IGNORE]])).tolist())
    assert (sums.hits, sums.targets) == (2, 3)


def test_loss_is_the_sum_over_the_targets_that_count() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 2, IGNORE, 4, 5], [IGNORE, 0, 6, 3, 2]])
    expected = -sum(
        F.log_softmax(logits[i, j].double(), -1)[t].item()
        for i, row in enumerate(targets)
        for j, t in enumerate(row)
        if t >= 0
    )
    assert TokenSums(*token_sums(logits, targets).tolist()).loss == pytest.approx(expected, rel=1e-6)


def test_perplexity_is_the_exponential_of_the_mean_not_the_mean_of_exponentials() -> None:
    sure, unsure = torch.tensor([[[20.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
    numbers = evaluate(Fixed(sure, unsure), [batch_of([[0]])] * 2, HERE)
    losses = [F.cross_entropy(x[0], torch.tensor([0])).item() for x in (sure, unsure)]
    assert numbers["val/loss"] == pytest.approx(sum(losses) / 2)
    assert numbers["val/perplexity"] == pytest.approx(math.exp(sum(losses) / 2))
    assert numbers["val/perplexity"] != pytest.approx(sum(map(math.exp, losses)) / 2)
    assert numbers["val/bits_per_byte"] == pytest.approx(sum(losses) / 2 / math.log(2))


def test_bits_per_byte_are_those_of_the_text_alone() -> None:
    """Special tokens are no bytes; a mask hides the rest. As in nanochat's evaluate_bpb."""
    logits = torch.randn(1, 5, 320, generator=torch.Generator().manual_seed(0))
    targets = [65, BOS, ASSISTANT_END, 66, IGNORE]
    nats = -F.log_softmax(logits[0].double(), -1)
    numbers = evaluate(Fixed(logits), [batch_of([targets])], HERE)
    assert numbers["val/bits_per_byte"] == pytest.approx((nats[0, 65] + nats[3, 66]).item() / 2 / math.log(2))
    assert numbers["val/loss"] == pytest.approx(sum(nats[i, t].item() for i, t in enumerate(targets[:4])) / 4)
    assert "val/bits_per_byte" not in evaluate(Fixed(logits[:, :1]), [batch_of([[BOS]])], HERE), "there is no text"


def test_every_validation_reads_the_same_batches_and_each_once() -> None:
    stage, tokens = Stage(), torch.arange(7 * 4 + 1, dtype=torch.int16)
    stage.val_loader = TokenWindows(tokens, name="v", seq_len=4, batch_size=2)
    few, all_there_are, again = ([batch.inputs for batch in stage.held_out(n, HERE)] for n in (2, 99, 2))
    assert (len(few), len(all_there_are)) == (2, 3)
    assert all(torch.equal(one, other) for one, other in zip(few, again, strict=True))
    assert len({int(x) for batch in all_there_are for x in batch.flatten()}) == 3 * 2 * 4


def test_nothing_to_predict_means_no_numbers_rather_than_zeros() -> None:
    assert evaluate(Fixed(torch.zeros(1, 1, 2)), [batch_of([[IGNORE]])], HERE) == {}


def test_a_hopeless_loss_has_infinite_perplexity_and_raises_nothing() -> None:
    assert summary(TokenSums(1e6, 0, 1, 1e6, 1))["val/perplexity"] == math.inf


def test_the_model_is_back_in_training_mode_even_after_an_exception() -> None:
    model = GPT(TINY).train()

    def broken() -> Iterator[Batch]:
        raise RuntimeError
        yield

    with pytest.raises(RuntimeError):
        evaluate(model, broken(), HERE)
    assert model.training


def test_sampling_moves_no_random_number_and_restores_the_mode() -> None:
    model = GPT(TINY).train()
    before = torch.get_rng_state()
    generate_samples(model, ["hello"], max_tokens=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_samples_depend_on_the_seed_alone() -> None:
    model = GPT(TINY)
    first, again, other = (generate_samples(model, ["ab"], max_tokens=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_temperature_zero_takes_the_likeliest_token_and_a_full_context_goes_on_from_its_end() -> None:
    """The cached keys and values, against a plain forward pass over what the model should see."""
    model = woken(TINY)
    tokens = [1, 2, 3, *continue_tokens(model, [1, 2, 3], 37, seed=0, temperature=0)]
    assert len(tokens) == 40
    for place in range(3, 40):
        begin = 0 if place < 16 else place // 8 * 8 - 8  # Full at 16; then half of it is read again, for 8 more.
        assert tokens[place] == model(torch.tensor([tokens[begin:place]]))[0, -1].argmax().item()


def test_next_to_no_temperature_is_as_good_as_none() -> None:
    model = woken(TINY)
    for temperature in (1e-6, 1e-42):
        assert continue_tokens(model, [1, 2], 5, seed=0, temperature=temperature) == continue_tokens(
            model, [1, 2], 5, seed=0, temperature=0
        )


def test_tokens_are_drawn_as_often_as_the_softmax_says_at_that_temperature() -> None:
    """What PPO takes for the probability of its replies, at temperature 1."""
    model = woken(TINY)
    logits = model(torch.tensor([[1, 2]]))[0, -1]
    likeliest = int(logits.argmax())
    for temperature in (1.0, 0.5):
        drawn = generate_replies(model, [[1, 2]] * 4000, 1, seed=5, temperature=temperature)
        share = sum(reply == [likeliest] for reply in drawn) / 4000
        assert share == pytest.approx(torch.softmax(logits / temperature, -1)[likeliest].item(), abs=0.03)


@pytest.mark.parametrize("seq_len", [1, 2, 3])
def test_a_context_of_next_to_nothing_ends_too(seq_len: int) -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=seq_len)).eval()
    assert len(continue_tokens(model, [1, 2, 3, 4], 5, seed=0)) == (0 if seq_len == 1 else 5)


def test_the_special_token_that_ends_a_reply_does_not_end_a_text() -> None:
    model = woken(TINY)
    model.head.weight.data[ASSISTANT_END] = 1e3 * model.features(torch.tensor([[1]]))[0, -1]
    assert generate_replies(model, [[1]], 3, temperature=0) == [[ASSISTANT_END]]
    assert len(continue_tokens(model, [1], 3, seed=0, temperature=0)) == 3


def woken(config: ModelConfig) -> GPT:
    """Not as at its beginning, when attention says nothing."""
    torch.manual_seed(3)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_prompts_that_begin_alike_get_names_of_their_own() -> None:
    prompts = ["x" * 40 + "a", "x" * 40 + "b", "short"]
    names = sample_names(prompts)
    assert list(names.values()) == ["sample/" + "x" * 30, "sample/" + "x" * 30 + " (2)", "sample/short"]


def test_a_sample_of_a_question_of_several_lines_has_a_name_of_one() -> None:
    assert [*sample_names(["Which?\nA) x", "a\tb"]).values()] == ["sample/Which? A) x", "sample/a b"]


def test_a_stammering_sample_shows_as_numbers() -> None:
    stammer, speech = "the the the the the the the the", "one sentence whose words all differ from each other"
    assert distinct_2(stammer) == pytest.approx(1 / 7)
    assert distinct_2(speech) == 1.0
    assert repetition(stammer) > 0.8 > 0.0 == repetition(speech)
    assert sample_metrics([stammer, speech])["samples/length"] == (len(stammer) + len(speech)) / 2
    assert entropy("aaaa") == 0 < entropy("abab") == 1 < entropy(speech)
    assert sample_metrics([]) == {}
