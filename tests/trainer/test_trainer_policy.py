"""Advantages, log-probabilities and replies against figures worked out by hand; and judging answers."""

import pytest
import torch
import torch.nn.functional as F

from trainer import sandbox
from trainer.chat import render_prompt
from trainer.data.batch import IGNORE
from trainer.distributed import World
from trainer.generate import generate_replies
from trainer.model import GPT, ModelConfig
from trainer.policy import ActorCritic, compute_gae, token_logps, token_logps_and_entropies, whiten
from trainer.sample_metrics import NgramModel
from trainer.stages.ppo import PolicyTraining, ReplyBatch
from trainer.task_eval import (
    count_passing_programs,
    estimate_pass_at_k,
    evaluate_tasks,
    exact_match_correct,
    multiple_choice_correct,
    slug,
)
from trainer.tasks.example import ask
from trainer.tokenizer import ASSISTANT_END, BOS

HERE = World(0, 0, 1, torch.device("cpu"))
TINY = ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=64)


def test_advantages_are_those_of_the_formula() -> None:
    rewards, values = torch.tensor([[9.0, 0.0, 1.0, 9.0]]), torch.tensor([[5.0, 0.5, 0.25, 5.0]])
    mask = torch.tensor([[False, True, True, False]])
    advantages, returns = compute_gae(rewards, values, mask, gamma=0.9, lam=0.5)
    last = 1.0 - 0.25
    first = 0.0 + 0.9 * 0.25 - 0.5 + 0.9 * 0.5 * last
    assert advantages[0].tolist() == pytest.approx([0, first, last, 0])
    assert returns[0].tolist() == pytest.approx([0, first + 0.5, 1.0, 0])


def test_whitening_looks_at_the_replies_only() -> None:
    mask = torch.tensor([[True, True, False]])
    white = whiten(torch.tensor([[1.0, 3.0, 100.0]]), mask, HERE.sum_over_ranks)
    assert white[0].tolist() == pytest.approx([-1, 1, 0], abs=1e-5)


def test_log_probabilities_and_entropy_are_those_of_the_softmax() -> None:
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[2, IGNORE, 4]])
    logps, entropy = token_logps_and_entropies(logits, targets)
    assert torch.equal(logps, token_logps(logits, targets))
    expected = F.log_softmax(logits, -1)
    assert logps[0].tolist() == pytest.approx([expected[0, 0, 2].item(), 0.0, expected[0, 2, 4].item()])
    assert entropy[0, 0].item() == pytest.approx(torch.distributions.Categorical(logits=logits[0, 0]).entropy().item())
    assert entropy[0, 1] == 0


def test_replies_do_not_depend_on_who_else_is_asked() -> None:
    model = GPT(TINY).eval()
    prompts = [[BOS, 104, 105], [BOS, *range(97, 117)], [BOS, 1]]
    together = generate_replies(model, prompts, 8, temperature=0)
    assert together == [generate_replies(model, [prompt], 8, temperature=0)[0] for prompt in prompts]
    assert all(len(reply) == 8 or reply[-1] == ASSISTANT_END for reply in together)


def test_what_was_read_before_is_remembered_as_it_would_be_read_again() -> None:
    torch.manual_seed(3)
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, seq_len=32)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts = [[BOS, *b"hello"], [BOS, 7]]
    for prompt, reply in zip(prompts, generate_replies(model, prompts, 12, temperature=0), strict=True):
        tokens = list(prompt)
        for _ in reply:
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        assert tokens[len(prompt) :] == reply


def test_a_reply_ends_at_its_mark_or_where_the_context_does() -> None:
    model = GPT(TINY).eval()
    model.head.weight.data.zero_()
    model.head.weight.data[ASSISTANT_END] = 1e3 * model.features(torch.tensor([[BOS, 5]]))[0, -1]
    assert generate_replies(model, [[BOS, 5]], 8, temperature=0) == [[ASSISTANT_END]]
    long = [BOS] * 60
    assert len(generate_replies(GPT(TINY).eval(), [long], 50, temperature=0)[0]) == 32, (
        "half of the context is the reply's"
    )


def test_drawing_replies_moves_no_global_random_number_and_the_seed_fixes_them() -> None:
    model = GPT(TINY).eval()
    state = torch.get_rng_state()
    first, again, other = (generate_replies(model, [[BOS]] * 3, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again != other


class _Told:
    """As much of PolicyTraining as its loss needs."""

    class config:
        clip, value_weight, entropy_weight = 0.2, 0.5, 0.0


def ppo_loss(old_logps: float, advantage: float) -> tuple[ActorCritic, torch.Tensor, dict]:
    learner = ActorCritic(GPT(TINY))
    inputs, targets = torch.tensor([[1, 2]]), torch.tensor([[IGNORE, 3]])
    with torch.no_grad():
        logits, _ = learner(inputs)
        logps = token_logps(logits, targets)
    extra = {
        "logps": logps - old_logps, "values": torch.zeros(1, 2), "returns": torch.zeros(1, 2),
        "advantages": torch.tensor([[0.0, advantage]]),
    }  # fmt: skip
    batch = ReplyBatch(inputs, targets, extra=extra)
    return learner, *PolicyTraining.loss(_Told(), learner, batch)


def test_ppo_pushes_a_good_reply_up_until_it_is_clipped() -> None:
    learner, loss, numbers = ppo_loss(old_logps=0.0, advantage=1.0)
    assert loss.item() == pytest.approx(-1.0)
    assert numbers["ppo/clip_fraction"] == 0
    loss.backward()
    assert learner.actor.head.weight.grad.abs().sum() > 0
    learner, loss, numbers = ppo_loss(old_logps=0.5, advantage=1.0)  # Already e^0.5 times likelier than when drawn.
    assert loss.item() == pytest.approx(-1.2)
    assert numbers["ppo/clip_fraction"] == 1
    loss.backward()
    assert learner.actor.head.weight.grad.abs().sum() == 0


def test_ppo_still_pushes_a_bad_reply_down_when_it_has_become_likelier() -> None:
    learner, loss, _ = ppo_loss(old_logps=0.5, advantage=-1.0)
    loss.backward()
    assert learner.actor.head.weight.grad.abs().sum() > 0


# -- judging -----------------------------------------------------------------------------------------------------------

CHOICES = [ask(f"{n}?\nA) x\nB) y", letter, letters=("A", "B"), answer=letter) for n, letter in enumerate("ABBA")]


class Prefers(GPT):
    """Finds one byte likelier than all others, whatever it is asked."""

    def __init__(self, byte: str) -> None:
        super().__init__(TINY)
        self.byte = ord(byte)
        self.head = _Constant(self.byte)  # type: ignore[assignment]


class _Constant(torch.nn.Module):
    def __init__(self, byte: int) -> None:
        super().__init__()
        self.byte, self.weight = byte, torch.zeros(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*features.shape[:-1], 320)
        logits[..., self.byte] = 5.0
        return logits


def test_a_choice_is_right_if_its_letter_is_the_likeliest_of_those_on_offer() -> None:
    assert multiple_choice_correct(Prefers("A"), CHOICES) == [True, False, False, True]
    assert multiple_choice_correct(Prefers("B"), CHOICES) == [False, True, True, False]
    assert sum(multiple_choice_correct(Prefers("C"), CHOICES)) == 2, "C is not on offer: a tie, and the first wins"


def test_a_number_is_right_by_exact_match_however_it_was_reached(monkeypatch) -> None:
    asked = [ask("2+2?", "2+2=4 #### 4", answer="4")] * 4
    replies = ["#### 4", "because 5-1=4 #### 4.0", "2+2=4", "#### 44"]
    said = [[*reply.encode(), ASSISTANT_END] for reply in replies]
    monkeypatch.setattr("trainer.task_eval.generate_replies", lambda *_, **__: said)
    assert exact_match_correct(GPT(TINY), asked, seed=0) == [True, True, False, False]
    assert evaluate_tasks(GPT(TINY), {"GSM8K": asked}, HERE, max_examples=4)["eval/gsm8k_acc"] == 0.5


def test_accuracy_is_normalised_against_guessing_and_averaged_over_tasks() -> None:
    sums = [ask("?", "#### 1", answer="1")]
    numbers = evaluate_tasks(
        Prefers("A"), {"ARC-Easy": CHOICES[:1] * 4, "GSM8K": sums, "talk": [ask("a", "b")]}, HERE, max_examples=9
    )
    assert numbers["eval/arc_easy_acc"] == numbers["eval/arc_easy_acc_normalized"] == 1
    assert numbers["eval/gsm8k_acc"] == 0
    assert numbers["eval/mean_acc"] == 0.5
    half = evaluate_tasks(Prefers("A"), {"ARC-Easy": CHOICES}, HERE, max_examples=9)
    assert (half["eval/arc_easy_acc"], half["eval/arc_easy_acc_normalized"]) == (0.5, 0.0)
    assert slug("ARC-Challenge") == "arc_challenge"


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    assert estimate_pass_at_k(4, 0, 1) == 0
    assert estimate_pass_at_k(4, 1, 1) == 0.25
    assert estimate_pass_at_k(4, 1, 4) == 1
    assert estimate_pass_at_k(5, 2, 2) == pytest.approx(0.7)


def test_programs_are_judged_by_running_them_and_only_on_demand(monkeypatch) -> None:
    problem = ask("def one():\n", "    return 1\n", tests="assert one() == 1")
    monkeypatch.setattr(
        "trainer.task_eval.generate_replies", lambda *_, **__: [[*b"    return 1\n"], [*b"    return 2\n"]]
    )
    assert count_passing_programs(GPT(TINY), problem, samples=2, seed=0) == 1
    assert evaluate_tasks(GPT(TINY), {"HumanEval": [problem]}, HERE, max_examples=1) == {}
    options = {"max_examples": 1, "allow_code": True, "pass_k_samples": 2}
    numbers = evaluate_tasks(GPT(TINY), {"HumanEval": [problem]}, HERE, **options)
    assert numbers["eval/humaneval_acc"] == pytest.approx(0.5)
    assert numbers["eval/humaneval_pass_at_2"] == 1


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(3)",
        "def",
        "f = open('made', 'w'); f.write('x'); f.flush()",
        "x = bytearray(2**31)",
        "import os; os.environ['HOME']",
    ],
)
def test_a_program_that_fails_or_takes_liberties_does_not_pass(source: str) -> None:
    assert not sandbox.passes(source)


def test_a_program_that_does_its_work_passes_and_one_that_never_ends_is_ended(monkeypatch) -> None:
    assert sandbox.passes("assert 1 + 1 == 2")
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    assert not sandbox.passes("while True: pass")


def test_the_reference_finds_its_own_text_likely_and_noise_unlikely() -> None:
    reference = NgramModel([b"the cat sat on the mat and the dog sat on the cat " * 20])
    known, noise = reference.perplexity(["the cat sat"]), reference.perplexity(["qzxvqzxv"])
    assert 1 < known < 5 < 100 < noise
    assert reference.perplexity([""]) is None


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    assert render_prompt(CHOICES[0].prompt)[-1] == 259
