"""Advantages, log-probabilities and replies against figures worked out by hand; and judging answers."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from trainer import sandbox
from trainer.chat import render, render_prompt
from trainer.data.batch import IGNORE, collate
from trainer.data.preferences import PreferencePairs
from trainer.distributed import World
from trainer.generate import generate_replies
from trainer.model import GPT, ModelConfig
from trainer.policy import ActorCritic, compute_gae, frozen_copy, token_logps, token_logps_and_entropies, whiten
from trainer.sample_metrics import NgramModel
from trainer.stages.dpo import PreferenceTraining
from trainer.stages.ppo import PolicyTraining, ReplyBatch, _used_width
from trainer.task_eval import (
    count_passing_programs,
    estimate_pass_at_k,
    evaluate_tasks,
    exact_match_correct,
    multiple_choice_correct,
    program_of,
    slug,
    spread,
)
from trainer.tasks import formats
from trainer.tasks.example import Message, Preference, TaskMixture, ask
from trainer.tokenizer import ASSISTANT_END, BOS, PAD

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


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_are_sums_of_discounted_surprises_within_the_reply(gamma: float, lam: float) -> None:
    """By brute force, for replies in the middle, in the whole row and of one token at its end."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 9, generator=generator)
    mask, spans = torch.zeros(3, 9, dtype=torch.bool), [(2, 7), (0, 9), (8, 9)]
    for row, (first, end) in enumerate(spans):
        mask[row, first:end] = True
    advantages, returns = compute_gae(rewards, values, mask, gamma=gamma, lam=lam)
    assert not advantages[~mask].any()
    for row, (first, end) in enumerate(spans):
        after = [*values[row, first + 1 : end].tolist(), 0.0]
        surprises = [float(rewards[row, t] + gamma * after[t - first] - values[row, t]) for t in range(first, end)]
        for t in range(first, end):
            expected = sum((gamma * lam) ** (k - t) * surprises[k - first] for k in range(t, end))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-5)
            assert returns[row, t].item() == pytest.approx(expected + values[row, t].item(), abs=1e-5)


def test_whitening_looks_at_the_replies_only() -> None:
    mask = torch.tensor([[True, True, False]])
    white = whiten(torch.tensor([[1.0, 3.0, 100.0]]), mask, HERE.sum_over_ranks)
    assert white[0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5, 0], abs=1e-5), "the unbiased deviation is sqrt(2)"
    assert whiten(torch.tensor([[5.0]]), torch.tensor([[True]]), HERE.sum_over_ranks).item() == 0


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


def test_the_loss_and_rewards_of_dpo_are_those_of_the_formula() -> None:
    """Equation 7 of the paper, one conversation at a time, without padding; pairs of different prompts and lengths."""
    torch.manual_seed(2)
    policy, stage = woken(), PreferenceTraining.__new__(PreferenceTraining)
    stage.beta, stage.chosen_weight, stage.reference = 0.1, 0.5, frozen_copy(policy)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    pairs = [Preference((Message("user", "?" * n),), "yes" * n, "no" * (5 - n)) for n in range(1, 5)]
    rows = [[(*pair.prompt, Message("assistant", reply)) for reply in (pair.chosen, pair.rejected)] for pair in pairs]

    def log_probability(model: GPT, messages: tuple[Message, ...]) -> float:
        ids, counts = render(messages)
        logps = torch.log_softmax(model(torch.tensor([ids]))[0].detach().double(), -1)
        return sum(float(logps[at - 1, token]) for at, token in enumerate(ids) if counts[at])

    rewards = [
        [0.1 * (log_probability(policy, row) - log_probability(stage.reference, row)) for row in pair] for pair in rows
    ]
    nll = [-log_probability(policy, row) / (len(pair.chosen) + 1) for (row, _), pair in zip(rows, pairs, strict=True)]
    batch = PreferencePairs(TaskMixture({"p": pairs}), seq_len=64, batch_size=4).next_batch()
    loss, numbers = stage.loss(policy, batch)
    expected = mean([math.log1p(math.exp(rejected - chosen)) for chosen, rejected in rewards]) + 0.5 * mean(nll)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert numbers["rewards/chosen"].item() == pytest.approx(mean([chosen for chosen, _ in rewards]), abs=1e-4)
    assert numbers["rewards/rejected"].item() == pytest.approx(mean([rejected for _, rejected in rewards]), abs=1e-4)
    assert numbers["rewards/margin"].item() == pytest.approx(mean([good - bad for good, bad in rewards]), abs=1e-4)
    assert numbers["rewards/accuracy"].item() == mean([good > bad for good, bad in rewards])
    assert 0 < numbers["rewards/accuracy"].item() < 1, "else a wrong sign might hide"
    divergences = []
    for row in (row for pair in rows for row in pair):
        ids, counts = render(row)
        of_policy, of_reference = (torch.softmax(model(torch.tensor([ids]))[0].double(), -1)
                                   for model in (policy, stage.reference))  # fmt: skip
        kl = (of_policy * (of_policy / of_reference).log()).sum(-1).tolist()
        divergences += [kl[at - 1] for at in range(len(ids)) if counts[at]]
    assert numbers["dpo/kl"].item() == pytest.approx(mean(divergences), rel=1e-3)


@pytest.mark.parametrize("batch_size", [4, 4000])
def test_the_penalty_adapts_to_the_target_and_stays_a_penalty_however_many_replies_there_are(batch_size: int) -> None:
    """Ziegler et al. 2019, section 2.2: at most a fifth up or down per 1,000 replies."""
    policy = _Told()
    policy.world, policy.rollout_metrics = HERE, {}
    policy.config = SimpleNamespace(kl_target=6.0)
    for kl, factor in ((600.0, 1.2), (6.0, 1.0), (0.0, 0.8), (6.0 * 0.9, 0.9)):
        policy.kl_weight = 0.02
        PolicyTraining._adapt_kl_weight(policy, kl, batch_size)
        assert policy.kl_weight == pytest.approx(0.02 * factor ** (batch_size / 1000))
        assert policy.rollout_metrics == {"ppo/kl": kl, "ppo/kl_weight": policy.kl_weight}


def test_a_reply_of_padding_is_still_a_reply() -> None:
    """Nothing keeps an untrained model from writing PAD; what it wrote must be learnt from to its end."""
    inputs, targets = collate(
        [(torch.tensor([BOS, *[5] * 15, *[PAD] * 8]), torch.tensor([False] * 16 + [True] * 8))], 64
    )
    assert _used_width(targets) == 24
    assert int((targets[:, :24] != IGNORE).sum()) == 8


def test_the_value_loss_and_the_entropy_bonus_are_those_of_the_formulas() -> None:
    """Over the reply's tokens: half the worse squared error of the value and of the value clipped near the old one."""
    torch.manual_seed(0)
    learner, inputs = ActorCritic(woken()), torch.randint(0, 256, (2, 5))
    targets = torch.tensor([[IGNORE, 1, 2, 3, IGNORE], [IGNORE, IGNORE, IGNORE, IGNORE, 4]])
    torch.nn.init.normal_(learner.value.weight)
    with torch.no_grad():
        logits, values = learner(inputs)
    old = {name: torch.randn(2, 5) for name in ("values", "returns", "advantages")}
    old["logps"] = torch.randn(2, 5) - 5
    told = _Told()
    told.config = SimpleNamespace(clip=0.2, value_weight=0.3, entropy_weight=0.1)
    loss, numbers = PolicyTraining.loss(told, learner, ReplyBatch(inputs, targets, extra=old))
    gains, errors, entropies, clipped = [], [], [], []
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 4)):
        p = torch.log_softmax(logits[i, j].double(), -1)
        value, before, wanted, advantage = (
            float(t[i, j]) for t in (values, old["values"], old["returns"], old["advantages"])
        )
        ratio = math.exp(p[targets[i, j]] - old["logps"][i, j])
        gains.append(min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
        near = before + min(max(value - before, -0.2), 0.2)
        errors.append(0.5 * max((value - wanted) ** 2, (near - wanted) ** 2))
        entropies.append(-float((p.exp() * p).sum()))
        clipped.append(abs(ratio - 1) > 0.2)
    expected = {
        "ppo/policy_loss": -mean(gains), "ppo/value_loss": mean(errors), "ppo/entropy": mean(entropies),
        "ppo/clip_fraction": mean(clipped),
    }  # fmt: skip
    assert {name: float(value) for name, value in numbers.items()} == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(-mean(gains) + 0.3 * mean(errors) - 0.1 * mean(entropies), rel=1e-4)


def mean(numbers: list) -> float:
    return sum(numbers) / len(numbers)


def woken() -> GPT:
    """Not as at its beginning, when attention says nothing."""
    model = GPT(TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


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


@pytest.mark.parametrize("labels", [["А", "Б"], ["10", "11"], ["", "B"], ["(A)", "(B)"]])
def test_choices_whose_labels_are_no_single_tokens_are_refused_as_rows_and_not_met_in_an_evaluation(labels) -> None:
    with pytest.raises(ValueError, match="not by one ASCII letter"):
        formats.arc({"question": "?", "choices": {"text": ["x", "y"], "label": labels}, "answerKey": labels[1]})


def test_a_number_is_right_by_exact_match_however_it_was_reached(monkeypatch) -> None:
    asked = [ask("2+2?", "2+2=4 #### 4", answer="4")] * 4
    replies = ["#### 4", "because 5-1=4 #### 4.0", "2+2=4", "#### 44"]
    said = [[*reply.encode(), ASSISTANT_END] for reply in replies]
    monkeypatch.setattr("trainer.task_eval.generate_replies", lambda *_, **__: said)
    assert exact_match_correct(GPT(TINY), asked, seed=0, reply_tokens=9) == [True, True, False, False]
    assert evaluate_tasks(GPT(TINY), {"GSM8K": asked}, HERE, max_examples=4)["eval/gsm8k_acc"] == 0.5


def test_replies_have_half_of_the_context_to_reach_their_answer_in(monkeypatch) -> None:
    """GSM8K's solutions take some 300 bytes, HumanEval's 200: a fixed small limit would make every answer wrong."""
    room: list[int] = []
    monkeypatch.setattr(
        "trainer.task_eval.generate_replies", lambda _, asked, n, **__: room.append(n) or [[]] * len(asked)
    )
    tasks = {"GSM8K": [ask("?", "#### 1", answer="1")], "HumanEval": [ask("?", "", tests="x")]}
    for seq_len in (64, 2048):
        model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=seq_len))
        evaluate_tasks(model, tasks, HERE, max_examples=1, allow_code=True)
    evaluate_tasks(model, {"GSM8K": tasks["GSM8K"]}, HERE, max_examples=1, reply_tokens=7)
    assert room == [32, 32, 1024, 1024, 7]


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


def test_a_few_questions_are_taken_from_everywhere_because_files_are_sorted_by_subject() -> None:
    """And only from those that have an answer."""
    by_subject = [ask(f"{n}?\nA) x\nB) y", "A", letters=("A", "B"), answer="A" if n < 60 else "B") for n in range(100)]
    talk = [ask("hello", "hi")] * 100
    numbers = evaluate_tasks(Prefers("A"), {"MMLU": [*talk, *by_subject]}, HERE, max_examples=10)
    assert numbers["eval/mmlu_acc"] == 0.6
    assert [len(spread(by_subject, count)) for count in (1, 7, 99, 100, 101)] == [1, 7, 99, 100, 100]
    assert len(set(map(id, spread(by_subject, 99)))) == 99


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
    assert count_passing_programs(GPT(TINY), problem, samples=2, seed=0, reply_tokens=9) == 1
    assert evaluate_tasks(GPT(TINY), {"HumanEval": [problem]}, HERE, max_examples=1) == {}
    options = {"max_examples": 1, "allow_code": True, "pass_k_samples": 2}
    numbers = evaluate_tasks(GPT(TINY), {"HumanEval": [problem]}, HERE, **options)
    assert numbers["eval/humaneval_acc"] == pytest.approx(0.5)
    assert numbers["eval/humaneval_pass_at_2"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        "    return 1\n",
        "Of course:\n```python\ndef one():\n    return 1\n```\nIt returns `1`.",
        "```\n    return 1\n```\n```\n    return 2\n```",
        "```py\n    return 1",
    ],
)
def test_a_program_is_the_code_in_the_reply_however_it_is_wrapped(reply: str) -> None:
    assert sandbox.passes(f'def one():\n    """One."""\n{program_of(reply)}\nassert one() == 1\n')


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


def test_the_references_probabilities_add_up_to_one_after_whatever_was_read() -> None:
    """Also after what ends a document, and so was seen without a successor."""
    reference = NgramModel([b"abcab", b"xy", b"z", b""])
    for read in (b"", b"a", b"ab", b"bc", b"xy", b"y", b"z", b"??", b"?a"):
        assert sum(reference._probability(read + bytes([byte])) for byte in range(256)) == pytest.approx(1)
    assert reference._probability(b"abc") == pytest.approx(
        0.75 * 1 + 0.25 * (0.75 * 1 + 0.25 * (0.75 / 8 + 0.25 / 256))
    )


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    assert render_prompt(CHOICES[0].prompt)[-1] == 259
