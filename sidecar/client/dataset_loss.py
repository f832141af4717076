"""The loss of each dataset in a mixture, from the losses that the step computed anyway.

Given: for each micro-batch, per-sample or per-token losses and the dataset of each sample. Hands on: one mean for each
dataset and step, of this rank, with its weight: the sidecar joins the ranks.
Never: runs the model again, reads a loss on the host, or waits for a device.
"""

import sys
from collections.abc import Sequence
from typing import Any

from sidecar.client.pending import PendingMetrics, PendingNumbers, send
from sidecar.client.values import label

torch: Any = sys.modules["torch"]  # Loaded only where a script has imported it already.

SUMS_MAX = 4096  # Of one step: more are those of a run whose steps nobody reports.

TOTAL_WEIGHT = "dataset/loss_weight"
"""In every step that carries losses by dataset; by this one name the sidecar knows them."""


class DatasetLosses:
    """Sums over the micro-batches of the step under way, on the device of the losses."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: list[Any] = []

    def add(self, names: Sequence[Any], losses: Any, mask: Any = None) -> None:
        """``losses``: (samples,) or (samples, tokens), not reduced; ``mask``: 1 where a loss counts, of the same shape.

        Raises ValueError when there are not as many names as samples, or when no step ends to take the sums away.
        """
        if len(self._sums) >= SUMS_MAX:
            raise ValueError("no step has ended for too long")
        known = [label(name) for name in names]
        if losses.dim() not in (1, 2) or len(known) != losses.shape[0]:
            raise ValueError(f"{len(known)} names for losses of shape {tuple(losses.shape)}")
        with torch.no_grad():
            values = losses.detach().float()
            weights = torch.ones_like(values) if mask is None else mask.detach().float()
            values = torch.where(weights != 0, values * weights, 0.0)  # A masked loss may be anything, NaN included.
            if values.dim() == 2:
                values, weights = values.sum(1), weights.sum(1)
            for name in dict.fromkeys(known):
                places = [i for i, each in enumerate(known) if each == name]
                self._names.append(name)
                self._sums.append(_total(values, weights, places))

    def take(self) -> dict[str, Any]:
        """The step has ended: loss and weight of each dataset that took part, values to follow."""
        names, sums = self._names, self._sums
        self._names, self._sums = [], []
        if not names:
            return {}
        numbers: PendingNumbers = send(torch.stack(sums).flatten().double())

        def finish(found: Sequence[float]) -> dict[str, Any]:
            totals: dict[str, list[float]] = {}
            for i, name in enumerate(names):
                total = totals.setdefault(name, [0.0, 0.0])
                total[0] += found[2 * i]
                total[1] += found[2 * i + 1]
            out: dict[str, Any] = {}
            for name, (loss, weight) in totals.items():
                out[f"dataset/{name}/loss"] = loss / weight if weight else None
                out[f"dataset/{name}/loss_weight"] = weight
            out[TOTAL_WEIGHT] = sum(weight for _, weight in totals.values())
            return out

        return PendingMetrics(numbers, finish).metrics()


def _total(values: Any, weights: Any, places: Sequence[int]) -> Any:
    """(2,): sum of losses and number of what counts. Runs of neighbours are slices: no index crosses to the device."""
    parts, first = [], places[0]
    for place, following in zip(places, [*places[1:], None], strict=True):
        if following != place + 1:
            parts.append(torch.stack((values[first : place + 1].sum(), weights[first : place + 1].sum())))
            first = following if following is not None else first
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
