"""How many parameters a module has, and how many of them a token is multiplied with.

Given: an nn.Module. Hands on: counts. Never: imports torch, or reads a weight.

The N of 6N counts parameters in matrix products: weights of linear layers and convolutions, a tied head once, and of
the experts those that are chosen for a token; not an embedding that is only looked up, nor norms and biases.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

LINEAR = frozenset({"Linear", "Conv1D", "Bilinear", "_ConvNd", "ColumnParallelLinear", "RowParallelLinear"})
LOOKUP = frozenset({"Embedding", "EmbeddingBag", "VocabParallelEmbedding"})
PACKED_DTYPES = frozenset({"uint8", "int8"})  # Quantised weights hold several to the byte; their layer knows the shape.


class Counts(NamedTuple):
    total: int
    trainable: int
    looked_up: int
    """Embeddings that no matrix product uses."""
    matmul_active: int
    """Parameters in matrix products for one token."""
    active: int
    """Parameters that one token uses: total, less the experts that are not chosen for it."""
    experts: int
    tied: bool
    """The embedding is the head, too."""
    dtype: str
    """The dtype of most parameters."""
    device: str


def count(model: Any, experts: int | None = None, chosen: int | None = None) -> Counts | None:
    """None for a module without parameters. ``experts`` of which ``chosen`` work for a token, if there are any."""
    named = list(model.named_parameters())
    if not named:
        return None
    multiplied, looked_up = _multiplied(model), {}
    for module in _of_kind(model, LOOKUP):
        looked_up[id(module.weight)] = _numel(module.weight)
    sizes = {id(p): multiplied.get(id(p)) or _numel(p) for _, p in named}
    in_experts = {id(p) for name, p in named if ".experts." in f".{name}." and "shared_expert" not in name}
    routed = sum(sizes[p] for p in in_experts)
    idle = 1 - chosen / experts if experts and chosen and chosen <= experts else 0.0
    total = sum(sizes.values())
    matmul = sum(multiplied.values())
    by_dtype: dict[str, int] = {}
    for _, p in named:
        dtype = str(p.dtype).removeprefix("torch.")
        by_dtype[dtype] = by_dtype.get(dtype, 0) + sizes[id(p)]
    widest = max((each for each in by_dtype if each not in PACKED_DTYPES), key=by_dtype.__getitem__, default=None)
    return Counts(
        total=total,
        trainable=sum(sizes[id(p)] for _, p in named if p.requires_grad),
        looked_up=sum(size for key, size in looked_up.items() if key not in multiplied),
        matmul_active=matmul - round(idle * sum(n for key, n in multiplied.items() if key in in_experts)),
        active=total - round(idle * routed),
        experts=routed,
        tied=any(key in multiplied for key in looked_up),
        dtype=widest or next(iter(by_dtype)),
        device=str(named[0][1].device.type),
    )


def _multiplied(model: Any) -> dict[int, int]:
    """Parameters that take part in matrix products, each once: identity -> elements."""
    found: dict[int, int] = {}
    for path, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        own = list(module.named_parameters(recurse=False))
        if kinds & LOOKUP or "Norm" in type(module).__name__:
            continue
        if kinds & LINEAR:
            weight = getattr(module, "weight", None)
            if weight is not None:
                found[id(weight)] = _elements(module, weight)
            continue
        for name, parameter in own:  # Experts as one 3-d parameter, attention's in_proj_weight; no positions.
            where = f"{path}.{name}".lower()
            shape = _shape(parameter)
            if len(shape) >= 2 and min(shape[-2:]) > 1 and "embed" not in where and "pos" not in name:
                found[id(parameter)] = _numel(parameter)
    return found


def _elements(module: Any, weight: Any) -> int:
    inside, outside = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inside, int) and isinstance(outside, int):
        if str(weight.dtype).removeprefix("torch.") in PACKED_DTYPES:
            return inside * outside
    return _numel(weight)


def _numel(parameter: Any) -> int:
    """Of the whole parameter, also where DeepSpeed ZeRO-3 has taken it away and left a note of its size."""
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", None) or parameter.shape)


def _of_kind(model: Any, kinds: frozenset[str]) -> Iterator[Any]:
    for module in model.modules():
        if any(kind.__name__ in kinds for kind in type(module).__mro__) and hasattr(module, "weight"):
            yield module


def block_count(model: Any) -> int | None:
    """Length of the list of modules of one kind that holds most parameters."""
    lists = [m for m in model.modules() if type(m).__name__ in ("ModuleList", "Sequential") and len(m) > 1]
    alike = [each for each in lists if len({type(member) for member in each}) == 1]
    sized = {len(each): sum(_numel(p) for p in each.parameters()) for each in alike}
    best = max(sized, key=sized.__getitem__, default=None)
    return best if best is not None and sized[best] > 0 else None


def head_count(model: Any) -> int | None:
    """Query heads, as attention modules call them."""
    for module in model.modules():
        for name in ("num_heads", "n_head", "n_heads", "num_attention_heads", "nhead"):
            value = getattr(module, name, None)
            if type(value) is int and value > 0:
                return value
    return None


def width(model: Any) -> int | None:
    """Of the largest embedding."""
    tables = [m.weight for m in _of_kind(model, LOOKUP) if len(_shape(m.weight)) == 2]
    sizes = [(_numel(table), _shape(table)[-1]) for table in tables]
    return int(max(sizes)[1]) if sizes else None
