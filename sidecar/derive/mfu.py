"""Model FLOPs per token and the peak to compare them with.

Given: model facts as the trainer sent them. Hands on: numerator, denominator, and a description of each.
Never: guesses. Whatever is missing is None with a reason.

Per token, forward and backward (PaLM, appendix B): ``6 N + 12 L H Q T`` with full attention, ``6 N + 6 L H Q T`` with
causal attention; L layers, H query heads, Q head size, T sequence length, N parameters that take part in matrix
products (an embedding looked up does not; a tied one does, as the head). Frozen weights need forward and input
gradient only: ``4 N_frozen + 6 N_trainable``. Of experts, only the active ones count.
"""

import math
from collections.abc import Mapping
from typing import Any

from sidecar.derive import peaks
from sidecar.state import Model

FULL = "full attention, 6N + 12LHQT"


def number(facts: Mapping[str, Any], *names: str) -> float | None:
    """The first of these facts that is a positive, finite number."""
    for name in names:
        value = facts.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
    return None


def model_of(facts: Mapping[str, Any], device_name: str | None = None) -> Model:
    """``device_name``: what NVML calls the run's GPU, used when the facts name none."""
    model = Model()
    _numerator(model, facts)
    _denominator(model, facts, device_name)
    return model


def attention_flops_per_token(facts: Mapping[str, Any]) -> float | None:
    """12 L H Q T, forward and backward, full."""
    layers, length = number(facts, "layers"), number(facts, "seq_len")
    heads, head_dim = number(facts, "heads"), number(facts, "head_dim")
    width = heads * head_dim if heads and head_dim else number(facts, "hidden", "hidden_size")
    if layers is None or length is None or width is None:
        return None
    return 12 * layers * width * length


def matmul_parameters(facts: Mapping[str, Any]) -> float | None:
    given = number(facts, "matmul_params", "active_params")
    if given is not None:
        return given
    params = number(facts, "params")
    if params is None:
        return None
    embedding = number(facts, "embedding_params")
    if embedding is not None and not facts.get("tied_embeddings") and embedding < params:
        return params - embedding
    return params


def weight_flops_per_token(facts: Mapping[str, Any]) -> tuple[float, str] | None:
    """6 N, or 4 N_frozen + 6 N_trainable where some weights are frozen."""
    matmul = matmul_parameters(facts)
    if matmul is None:
        return None
    params, trainable = number(facts, "params"), number(facts, "trainable_params")
    if params is None or trainable is None or trainable >= params:
        return 6 * matmul, "6N"
    trainable = min(trainable, matmul)
    return 4 * (matmul - trainable) + 6 * trainable, "4N_frozen + 6N_trainable"


def _numerator(model: Model, facts: Mapping[str, Any]) -> None:
    attention = attention_flops_per_token(facts)
    given = number(facts, "flops_per_token")
    if given is not None:
        model.flops_per_token = given
        said = facts.get("flops_convention")
        model.convention = said if isinstance(said, str) and said else f"{FULL}, as the trainer counted it"
        if attention is None:
            model.convention = said if isinstance(said, str) and said else "flops_per_token as given by the trainer"
        elif attention / 2 < given:
            model.flops_per_token_causal = given - attention / 2
        return
    weights = weight_flops_per_token(facts)
    if weights is None:
        model.flops_reason = "FLOPs per token are not known: give model=, or model_facts flops_per_token or params"
        return
    flops, formula = weights
    if attention is None:
        model.flops_per_token = flops
        model.convention = f"{formula}, attention not counted (layers, heads, head_dim or seq_len not known)"
        return
    model.flops_per_token = flops + attention
    model.flops_per_token_causal = flops + attention / 2
    model.convention = f"full attention, {formula} + 12LHQT"


def _denominator(model: Model, facts: Mapping[str, Any], device_name: str | None) -> None:
    named = facts.get("device_name")
    model.device_name = named if isinstance(named, str) and named else device_name
    dtype = facts.get("dtype")
    model.dtype = peaks.dtype_of(dtype) if isinstance(dtype, str) else None
    given = number(facts, "peak_flops")
    if given is not None:
        model.peak_flops = given
        source = facts.get("peak_source")
        model.peak_source = source if isinstance(source, str) and source else "override"
        return
    model.peak_flops, model.peak_reason = peaks.find(model.device_name, model.dtype)
    if model.peak_flops is not None:
        model.peak_source = "table"
