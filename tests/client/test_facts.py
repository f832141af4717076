"""Parameters counted by hand, for the shapes of models people train."""

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.client import facts as facts_module
from sidecar.client.facts import model_facts
from sidecar.derive import mfu

torch = pytest.importorskip("torch")
nn = torch.nn

V, D, L, T, H = 100, 16, 3, 32, 4


class Block(nn.Module):
    """12 D^2 in matrices, 4 D in biases and 4 D in norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.up, self.down = nn.Linear(D, 4 * D, bias=True), nn.Linear(4 * D, D, bias=False)


MATRICES = 12 * D * D * L
SMALL = (4 * D + 4 * D) * L


class GPT(nn.Module):
    def __init__(self, *, tied: bool = False, config: Any = None) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, D), nn.Embedding(T, D)
        self.h = nn.ModuleList(Block() for _ in range(L))
        self.head = nn.Linear(D, V, bias=False)
        if tied:
            self.head.weight = self.wte.weight
        if config is not None:
            self.config = config


def test_a_plain_gpt_is_counted_as_by_hand() -> None:
    facts = model_facts(GPT(config={"n_layer": L, "n_head": H, "n_embd": D, "sequence_len": T}), None)
    assert facts["params"] == 2 * V * D + T * D + MATRICES + SMALL
    assert facts["trainable_params"] == facts["active_params"] == facts["params"]
    assert facts["embedding_params"] == V * D + T * D
    assert facts["matmul_params"] == MATRICES + V * D
    assert facts["tied_embeddings"] is False
    assert (facts["layers"], facts["heads"], facts["head_dim"], facts["seq_len"]) == (L, H, D // H, T)
    assert (facts["dtype"], facts["device"]) == ("float32", "cpu")


def test_a_tied_head_is_a_product_and_counts_once() -> None:
    facts = model_facts(GPT(tied=True), None)
    assert facts["params"] == V * D + T * D + MATRICES + SMALL
    assert facts["matmul_params"] == MATRICES + V * D
    assert facts["embedding_params"] == T * D
    assert facts["tied_embeddings"] is True


def test_the_sidecar_takes_six_times_the_products() -> None:
    facts = model_facts(GPT(tied=True), None)
    assert mfu.weight_flops_per_token(facts) == (6 * (MATRICES + V * D), "6N")


def test_frozen_weights_and_their_adapters_cost_four_and_six() -> None:
    """LoRA as PEFT builds it: everything frozen, two thin products beside each attention projection."""
    model, rank = GPT(), 2
    model.requires_grad_(False)
    for block in model.h:
        block.lora_A, block.lora_B = nn.Linear(D, rank, bias=False), nn.Linear(rank, 3 * D, bias=False)
    thin = L * rank * (D + 3 * D)
    facts = model_facts(model, None)
    assert facts["trainable_params"] == thin
    assert facts["matmul_params"] == MATRICES + V * D + thin
    flops, formula = mfu.weight_flops_per_token(facts) or (0, "")
    assert (flops, formula) == (4 * (MATRICES + V * D) + 6 * thin, "4N_frozen + 6N_trainable")


EXPERTS, CHOSEN = 8, 2


class Mixture(nn.Module):
    """Experts as a list of modules (Mixtral) or as one 3-d parameter (gpt-oss), beside a router and a shared expert."""

    def __init__(self, *, stacked: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.router, self.shared_expert = nn.Linear(D, EXPERTS, bias=False), nn.Linear(D, D, bias=False)
        if stacked:
            self.experts = nn.Module()
            self.experts.gate_up_proj = nn.Parameter(torch.zeros(EXPERTS, D, 2 * D))
        else:
            self.experts = nn.ModuleList(nn.Linear(D, 2 * D, bias=False) for _ in range(EXPERTS))
        self.config = SimpleNamespace(
            num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN, num_hidden_layers=1, num_attention_heads=H,
            hidden_size=D, head_dim=None,
        )  # fmt: skip


@pytest.mark.parametrize("stacked", [False, True])
def test_of_experts_only_the_chosen_ones_count(stacked: bool) -> None:
    facts = model_facts(Mixture(stacked=stacked), None)
    one = 2 * D * D
    outside = D * EXPERTS + D * D
    assert facts["params"] == V * D + outside + EXPERTS * one
    assert facts["expert_params"] == EXPERTS * one
    assert facts["active_params"] == V * D + outside + CHOSEN * one
    assert facts["matmul_params"] == outside + CHOSEN * one
    assert (facts["experts"], facts["experts_per_token"], facts["head_dim"]) == (EXPERTS, CHOSEN, D // H)


def test_shape_is_found_without_a_configuration() -> None:
    layer = nn.TransformerEncoderLayer(D, H, 4 * D, batch_first=True)
    model = nn.Sequential(nn.Embedding(V, D), nn.TransformerEncoder(layer, L, enable_nested_tensor=False))
    facts = model_facts(model, None)
    assert (facts["layers"], facts["heads"], facts["hidden"]) == (L, H, D)
    assert facts["matmul_params"] == MATRICES  # in_proj_weight of torch's own attention is a bare parameter.
    assert "seq_len" not in facts


def test_what_ddp_and_compile_wrap_is_found_and_what_the_user_says_wins() -> None:
    wrapper = nn.Module()
    wrapper.module = GPT(config=SimpleNamespace(n_layer=7, n_head=H, n_embd=D, max_position_embeddings=131072))
    facts = model_facts(wrapper, {"params": 5, "seq_len": 64, "mine": "yes"})
    assert (facts["layers"], facts["params"], facts["seq_len"], facts["mine"]) == (7, 5, 64, "yes")
    assert "seq_len" not in model_facts(wrapper, None)


def test_the_dtype_is_that_of_most_parameters() -> None:
    model = GPT().bfloat16()
    model.h[0].norm1.float()
    assert model_facts(model, None)["dtype"] == "bfloat16"


def test_what_is_no_model_or_breaks_when_asked_gives_no_facts_and_no_error() -> None:
    class Broken:
        @property
        def config(self) -> Any:
            raise RuntimeError("no")

        def named_parameters(self) -> Any:
            raise RuntimeError("no")

    for model in (None, object(), Broken(), nn.Identity(), {"a": 1}):
        assert "params" not in model_facts(model, None)
    assert model_facts(Broken(), {"params": 3})["params"] == 3


def test_a_model_of_transformers_is_counted_as_the_library_counts() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=2 * D, num_hidden_layers=2, num_attention_heads=H,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    facts = model_facts(model, None)
    attention, mlp = D * D + 2 * D * (D // 2) + D * D, 3 * D * 2 * D
    assert facts["params"] == model.num_parameters() == V * D + 2 * (attention + mlp + 2 * D) + D
    assert facts["matmul_params"] == V * D + 2 * (attention + mlp)
    assert facts["tied_embeddings"] is True
    assert (facts["layers"], facts["heads"], facts["head_dim"]) == (2, H, D // H)


def test_parameters_that_deepspeed_keeps_elsewhere_have_their_whole_size() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
    whole = model_facts(model, None)
    for parameter in model.parameters():
        parameter.ds_numel, parameter.ds_shape = parameter.numel(), parameter.shape
        parameter.data = torch.empty(0)
    assert model_facts(model, None) == whole
    assert whole["params"] == 8 * 4 + 4 * 8 + 8


@pytest.mark.parametrize(("precision", "capability", "device", "given", "expected"), [
    ("high", (9, 0), "cuda:0", {}, "tf32"),
    ("highest", (9, 0), "cuda:0", {}, "float32"),
    ("high", (7, 0), "cuda:0", {}, "float32"),  # Volta has no TF32.
    ("high", (9, 0), "cpu", {}, "float32"),
    ("high", (9, 0), "cuda:0", {"dtype": "bfloat16"}, "bfloat16"),  # Under autocast, which we cannot see.
])  # fmt: skip
def test_float32_counts_as_tf32_where_torch_computes_it_so(
    monkeypatch: pytest.MonkeyPatch, precision: str, capability: tuple[int, int], device: str,
    given: dict[str, str], expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(facts_module, "_device", lambda model: {"device": device})
    assert model_facts(torch.nn.Linear(2, 2), given)["dtype"] == expected
