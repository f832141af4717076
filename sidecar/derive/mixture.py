"""Which datasets a run has consumed, in which shares, and how much of each.

Given: samples and tokens per dataset, summed over ranks. Hands on: shares, coverage, passes.
Never: holds a coverage at 100 %: more than that are further epochs.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.state import RunState


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
    """The share that was asked for, from ``dataset_ratios``."""
    for place in (state.facts, state.config):
        ratios = place.get("dataset_ratios")
        if isinstance(ratios, dict) and type(ratios.get(name)) in (int, float):
            return float(ratios[name])
    return None


def share(state: RunState, name: str) -> float | None:
    """Of all samples; of all tokens when nobody counts samples."""
    for which in (0, 1):
        total = sum(consumed[which] for consumed in state.datasets.values())
        if total:
            return state.datasets[name][which] / total
    return None


def describe(state: RunState, out: dict[str, Any], names: Mapping[str, object]) -> None:
    for name in names:
        if name not in state.datasets:
            continue
        samples, tokens = state.datasets[name]
        prefix = f"dataset/{name}/"
        out[prefix + "samples_seen"] = samples
        out[prefix + "tokens_seen"] = tokens
        ratio = share(state, name)
        if ratio is not None:
            out[prefix + "ratio"] = ratio
        size = size_of(state, name)
        if size is not None:
            out[prefix + "coverage_percent"] = 100.0 * samples / size
