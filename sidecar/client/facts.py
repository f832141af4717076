"""What the model and the device are, found from the objects the user already has.

Given: an nn.Module (or nothing) and the user's own facts, which win. Hands on: the ``model_facts`` of the Hello.
Never: imports torch itself, runs the model, or guesses: what cannot be found stays absent.
"""

import sys
from collections.abc import Mapping
from typing import Any

from sidecar.client import parameters

KEYS = frozenset(
    {
        "flops_per_token", "peak_flops", "peak_source", "params", "trainable_params", "embedding_params",
        "matmul_params", "active_params", "expert_params", "experts", "experts_per_token", "tied_embeddings", "layers",
        "heads", "head_dim", "hidden", "seq_len", "dtype", "device", "device_name", "world_size",
    }
)  # fmt: skip

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "heads")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
LENGTH = ("sequence_len", "block_size", "seq_len", "max_seq_len", "context_length", "sequence_length")
"""Not max_position_embeddings nor n_positions: what a model could take says nothing about what it is trained on."""


def model_facts(model: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Facts for the Hello. Keys are KEYS plus whatever else the user gave.

    A model that cannot be looked into gives fewer facts, never an error.
    """
    found: dict[str, Any] = {}
    for look in (_parameters, _shape, _device):
        try:
            found |= look(model)
        except Exception:  # noqa: BLE001 - Foreign code: a module's or configuration's attributes may do anything.
            continue
    if _may_use_tf32(found):
        found["dtype"] = "tf32"
    found.update(given or {})
    return {name: value for name, value in found.items() if value is not None}


def _parameters(model: Any) -> dict[str, Any]:
    if model is None or not callable(getattr(model, "named_parameters", None)):
        return {}
    config = _config(model)
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    chosen = _first(config, "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "top_k")
    counts = parameters.count(model, experts, chosen)
    if counts is None:
        return {}
    return {
        "params": counts.total,
        "trainable_params": counts.trainable,
        "embedding_params": counts.looked_up,
        "matmul_params": counts.matmul_active or None,
        "active_params": counts.active,
        "expert_params": counts.experts or None,
        "experts": experts if counts.experts else None,
        "experts_per_token": chosen if counts.experts else None,
        "tied_embeddings": counts.tied,
        "dtype": counts.dtype,
        "device": counts.device,
    }


def _config(model: Any) -> Any:
    """The configuration of the model inside wrappers (DDP, torch.compile); of a multimodal model its text part."""
    for _ in range(4):
        inner = getattr(model, "_orig_mod", None) or (
            getattr(model, "module", None) if getattr(model, "config", None) is None else None
        )
        if inner is None:
            break
        model = inner
    config = getattr(model, "config", None)
    config = config if config is not None else getattr(model, "args", None)
    return getattr(config, "text_config", None) or config


def _first(config: Any, *names: str) -> int | None:
    for name in names:
        value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _shape(model: Any) -> dict[str, Any]:
    """By the names that Hugging Face, nanoGPT, nanochat, Llama and torch itself use; else from the blocks."""
    if model is None:
        return {}
    config = _config(model)
    layers, heads, hidden = _first(config, *LAYERS), _first(config, *HEADS), _first(config, *HIDDEN)
    if callable(getattr(model, "named_modules", None)):
        layers = layers or parameters.block_count(model)
        heads = heads or parameters.head_count(model)
        hidden = hidden or parameters.width(model)
    return {
        "layers": layers,
        "heads": heads,
        "head_dim": _head_dim(config) or (hidden // heads if heads and hidden else None),
        "hidden": hidden,
        "seq_len": _first(config, *LENGTH),
    }


def _head_dim(config: Any) -> int | None:
    """Size of a query head. DeepSeek's heads differ for scores and values: their mean is what 12 L H Q T needs."""
    plain, rotary = _first(config, "qk_nope_head_dim"), _first(config, "qk_rope_head_dim")
    value = _first(config, "v_head_dim")
    if plain and rotary and value:
        return (plain + rotary + value) // 2
    return _first(config, "head_dim", "d_head")


def _device(model: Any) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    found: dict[str, Any] = {}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["device_name"] = torch.cuda.get_device_name()
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        found["world_size"] = dist.get_world_size()
    return found


def _may_use_tf32(facts: Mapping[str, Any]) -> bool:
    """Whether torch computes products of float32 in TF32, whose peak is seven times higher: asked for, and possible."""
    torch = sys.modules.get("torch")
    try:
        return (
            torch is not None
            and facts.get("dtype") == "float32"
            and str(facts.get("device", "")).startswith("cuda")
            and torch.version.hip is None
            and torch.get_float32_matmul_precision() != "highest"
            and torch.cuda.get_device_capability() >= (8, 0)
        )
    except Exception:  # noqa: BLE001 - A torch that is only half imported, or a device that has failed.
        return False


def gpu_uuids() -> list[str]:
    """UUID of our device as NVML spells it; empty without CUDA. NVML ignores CUDA_VISIBLE_DEVICES."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return []
        uuid = str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
    except Exception:  # noqa: BLE001 - A torch that is only half imported, or a device that has failed.
        return []
    return [uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"] if uuid else []
