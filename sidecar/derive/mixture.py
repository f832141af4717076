"""The data mixture: what a run has consumed of each dataset, in which shares, and the loss of each over all ranks.

Given: samples, tokens and losses per dataset. Hands on: shares, coverage, passes, joined losses.
Never: caps coverage at 100 %: values above it are further epochs.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.state import DATASETS_MAX, RunState

TOTAL_WEIGHT = "dataset/loss_weight"
"""Sent with every step that carries losses by dataset."""
DESCRIBED_MAX = 32
"""With more datasets than this, a step's row describes only those it consumed from, to stay small."""


def losses(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """(loss times weight, weight) by dataset, of one rank's step."""
    out: dict[str, tuple[float, float]] = {}
    for key, weight in metrics.items():
        name = key[8:-12]
        if not (name and key.startswith("dataset/") and key.endswith("/loss_weight")) or len(out) >= DATASETS_MAX:
            continue
        loss: Any = metrics.get(f"dataset/{name}/loss")
        if type(loss) in (int, float) and type(weight) in (int, float) and 0 < weight < 1e300:
            out[name] = (float(loss) * weight, float(weight))
    return out


def joined_losses(summed: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Weighted means over all ranks."""
    return {f"dataset/{name}/loss": total / weight for name, (total, weight) in summed.items()}


def size_of(state: RunState, name: str) -> int | None:
    """Samples in the dataset, from ``dataset_sizes`` in the model facts or the configuration."""
    for place in (state.facts, state.config):
        sizes = place.get("dataset_sizes")
        if isinstance(sizes, dict):
            size = sizes.get(name)
            if type(size) is int and size > 0:
                return size
    return None


def target_ratio(state: RunState, name: str) -> float | None:
    """The planned share, from ``dataset_ratios``."""
    for place in (state.facts, state.config):
        ratios = place.get("dataset_ratios")
        ratio: Any = ratios.get(name) if isinstance(ratios, dict) else None
        if type(ratio) in (int, float) and 0 <= ratio < float("inf"):
            return float(ratio)
    return None


def shares(state: RunState) -> dict[str, float]:
    """Shares of all samples, or of all tokens when samples are not counted. Empty when neither is."""
    for which in (0, 1):
        total = sum(consumed[which] for consumed in state.datasets.values())
        if total:
            return {name: consumed[which] / total for name, consumed in state.datasets.items()}
    return {}


def describe(state: RunState, out: dict[str, Any], consumed: Mapping[str, object]) -> None:
    """Every dataset so far, because consuming one changes the shares of all; of very many, only this step's."""
    ratios = shares(state)
    for name in state.datasets if len(state.datasets) <= DESCRIBED_MAX else consumed:
        if name not in state.datasets:
            continue
        samples, tokens = state.datasets[name]
        prefix = f"dataset/{name}/"
        out[prefix + "samples_seen"] = samples
        out[prefix + "tokens_seen"] = tokens
        if name in ratios:
            out[prefix + "ratio"] = ratios[name]
        target = target_ratio(state, name)
        if target is not None:
            out[prefix + "target_ratio"] = target
        size = size_of(state, name)
        if size is not None:
            out[prefix + "coverage_percent"] = 100.0 * samples / size
            out[prefix + "epochs"] = samples // size
