"""What the model and the device are, found from the objects the user already has.

Given: an nn.Module (or nothing) and the user's own facts, which win. Hands on: the ``model_facts`` of the Hello.
Never: imports torch itself, runs the model, or guesses: what cannot be found stays absent.
"""

import sys
from collections.abc import Mapping
from typing import Any

KEYS = frozenset(
    {
        "flops_per_token", "peak_flops", "peak_source", "params", "trainable_params", "embedding_params", "layers",
        "heads", "head_dim", "seq_len", "dtype", "device_name",
    }
)  # fmt: skip


def model_facts(model: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Facts for the Hello. Keys are KEYS plus whatever else the user gave."""
    facts = {**_parameters(model), **_config(getattr(model, "config", None)), **_device()}
    facts.update(given or {})
    return {name: value for name, value in facts.items() if value is not None}


def _parameters(model: Any) -> dict[str, Any]:
    if model is None or not callable(getattr(model, "parameters", None)):
        return {}
    parameters = list(model.parameters())
    if not parameters:
        return {}
    first = parameters[0]
    return {
        "params": sum(p.numel() for p in parameters),
        "trainable_params": sum(p.numel() for p in parameters if p.requires_grad),
        "embedding_params": _lookup_parameters(model),
        "dtype": str(first.dtype).removeprefix("torch."),
    }


def _lookup_parameters(model: Any) -> int | None:
    """Parameters that are only looked up: embeddings whose weight no Linear shares (a tied head multiplies it)."""
    if not callable(getattr(model, "modules", None)):
        return None
    modules = list(model.modules())
    multiplied = {id(m.weight) for m in modules if type(m).__name__ == "Linear"}
    lookups = {id(m.weight): m.weight.numel() for m in modules if type(m).__name__ == "Embedding"}
    return sum(count for identity, count in lookups.items() if identity not in multiplied)


def _config(config: Any) -> dict[str, Any]:
    """Names used by Hugging Face configurations, nanoGPT and nanochat."""

    def first(*names: str) -> Any:
        for name in names:
            value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    if config is None:
        return {}
    heads, width = first("num_attention_heads", "n_head", "heads"), first("hidden_size", "n_embd", "d_model")
    head_dim = first("head_dim") or (width // heads if heads and width else None)
    return {
        "layers": first("num_hidden_layers", "n_layer", "layers"),
        "heads": heads,
        "head_dim": head_dim,
        "seq_len": first("sequence_len", "block_size", "seq_len", "max_seq_len"),
    }


def _device() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"device_name": torch.cuda.get_device_name()}


def gpu_uuids() -> list[str]:
    """UUID of our device as NVML spells it; empty without CUDA. NVML ignores CUDA_VISIBLE_DEVICES."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    uuid = str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
    return [uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"] if uuid else []
