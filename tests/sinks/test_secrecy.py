"""What is a secret and what only looks like one, over names and keys made by the thousand."""

import random
import string
import uuid

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.rows import RunInfo
from sidecar.sinks.privacy import Gate
from sidecar.sinks.secrecy import REDACTED, looks_secret, without_secrets

VOCABULARY = """
sweep pretrain midtrain sft dpo ppo run test baseline ablation lr bs qwen llama smollm gsm8k mmlu fineweb edu
adamw muon cosine warmup bf16 fp8 d12 d20 gpt2 medium v2 seed42 h100x8 node rank rope rmsnorm swiglu nanochat nanogpt
tinystories lora r16 alpha32 long context 128k 8k 1b 7b moe 8x7b distill grpo kl beta0 qlora nf4 zero3 fsdp tp4 pp2 FP8
openwebtext humaneval codelupe deepseek Qwen2VLForConditionalGeneration LlamaForCausalLM batch256 lr3e 4 1e 5 owt xlarge
XL H200 TransformerEngine flashattn2 gradckpt ema0999 hparam dropout01 mup"""
WORDS = VOCABULARY.split()

words = st.sampled_from(WORDS)
numbers = st.integers(0, 10**10).map(str)
dates = st.datetimes().flatmap(
    lambda when: st.sampled_from([when.strftime(form) for form in ("%Y-%m-%d", "%Y%m%dT%H%M%SZ", "%Y_%m_%d_%H_%M_%S")])
)
seeds = st.integers(0, 2**64 - 1)
commits = st.tuples(seeds, st.integers(6, 24)).map(lambda drawn: drawn_from("0123456789abcdef", *drawn))
uuids = st.uuids(version=4).flatmap(lambda drawn: st.sampled_from([str(drawn), drawn.hex]))
separators = st.sampled_from("-_/.")

ALPHABETS = {
    "base62": string.ascii_letters + string.digits, "base64": string.ascii_letters + string.digits + "+/",
    "base64url": string.ascii_letters + string.digits + "-_", "base36": string.ascii_lowercase + string.digits,
    "capitals": string.ascii_uppercase + string.digits,
}  # fmt: skip


def drawn_from(alphabet: str, seed: int, length: int) -> str:
    """As a key is made: hypothesis itself would draw "0000..." first, which is none."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


@given(st.lists(words | numbers | dates | commits | uuids, min_size=1, max_size=6), separators)
@settings(max_examples=500, deadline=None)
def test_a_name_of_words_numbers_dates_commits_and_uuids_is_no_secret(parts: list[str], separator: str) -> None:
    name = separator.join(parts)
    assert not looks_secret(name)
    assert without_secrets(name) == name


def test_keys_of_the_usual_lengths_are_found_but_for_a_few_in_a_thousand() -> None:
    for name, alphabet in ALPHABETS.items():
        for length, missed_max in ((32, 30), (40, 12), (64, 2)):
            missed = [seed for seed in range(1000) if not looks_secret(drawn_from(alphabet, seed, length))]
            assert len(missed) <= missed_max, (name, length, len(missed))


@given(seeds, st.integers(24, 96), st.sampled_from(sorted(ALPHABETS)))
@settings(max_examples=300, deadline=None)
def test_a_key_is_found_wherever_it_stands(seed: int, length: int, alphabet: str) -> None:
    key = drawn_from(ALPHABETS[alphabet], seed, length)
    assume(looks_secret(key))
    text = without_secrets(f"group of {key} in november")
    assert text == f"group of {REDACTED} in november"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-" + "a" * 20, "hf_" + "a1" * 12, "ghp_" + "Ab1" * 10, "AKIAIOSFODNN7EXAMPLE", "xoxb-1234567890-abc",
        "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "0123456789abcdef0123456789abcdef01234567",
        "9e107d9d372bb6826bd81d3542a419d6", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0", "postgres://ann:pw@db/x",
        "Bearer abcdefghijkl", "wandb_v1_abcdefghijklmn",
    ],
)  # fmt: skip
def test_keys_of_known_makes_are_found(secret: str) -> None:
    assert looks_secret(secret)
    assert REDACTED in without_secrets(f"with {secret} in it")


def test_a_group_named_by_a_machine_reaches_the_far_end_as_it_is() -> None:
    names = ["sweep-20251121-8f3a2b1c9d0e", uuid.uuid4().hex, f"torchrun-{uuid.uuid4()}", "grid-deadbeefcafe0123"]
    for name in names:
        info = Gate("run-1", "wandb").info(RunInfo("run-1", name=name, group=name, tags=[name], notes=f"see {name}"))
        assert (info.name, info.group, info.tags, info.notes) == (name, name, [name], f"see {name}")
