"""Which datasets the loop consumes: counted when the step ends, beside their sizes and planned shares.

Given: names, sizes, and which dataset each example came from. Hands on: counts per step, through a Run.
Never: counts an example before the step that consumed it has ended, or sums over ranks: the sidecar does.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

UNKNOWN = "unknown"


class Sink(Protocol):
    """What a tracker reports to: ``sidecar.Run``."""

    def dataset(self, name: str, *, samples: int = 0, tokens: int = 0) -> None: ...

    def facts(self, changes: Mapping[str, Any]) -> None: ...


class MixtureTracker:
    """Counts of this rank. ``increment`` when an example is read, ``flush`` when the step that holds it has ended."""

    def __init__(
        self, names: Sequence[str], sizes: Sequence[int], *, ratios: Sequence[float] | None = None, strict: bool = False
    ) -> None:
        """``ratios`` are the planned shares (default: by size). ``strict`` makes an unknown name a KeyError.

        Raises ValueError for unequal lengths, sizes that are not positive, ratios that are no shares, or the same name
        twice.
        """
        self.names, self.sizes = list(names), [int(size) for size in sizes]
        if len(self.names) != len(self.sizes):
            raise ValueError(f"{len(self.names)} names but {len(self.sizes)} sizes")
        if any(size <= 0 for size in self.sizes):
            raise ValueError(f"sizes must be positive, not {self.sizes}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a name occurs twice in {self.names}")
        if ratios is not None and len(ratios) != len(self.names):
            raise ValueError(f"{len(self.names)} names but {len(ratios)} ratios")
        shares = [float(share) for share in (self.sizes if ratios is None else ratios)]
        total = sum(shares)
        if self.names and not (min(shares) >= 0.0 and 0.0 < total < math.inf):  # Nor NaN, of which nothing is true.
            raise ValueError(f"ratios must not be negative, and not all zero: {ratios}")
        self.ratios = {name: share / total for name, share in zip(self.names, shares, strict=True)}
        self.strict = strict
        self.current: str | None = None
        """The dataset of the example read last."""
        self.queued: dict[str, list[int]] = {}
        """Read but not yet consumed by a step: name -> [samples, tokens]."""
        self.seen: dict[str, list[int]] = {name: [0, 0] for name in self.names}
        """Consumed by steps that have ended, this rank."""
        self._sizes_sent_to: Sink | None = None

    @property
    def total_size(self) -> int:
        return sum(self.sizes)

    def increment(self, name: str, samples: int = 1, tokens: int = 0) -> None:
        """An example of ``name`` has been read. Raises KeyError for an unknown name only when ``strict``."""
        if name not in self.ratios:
            if self.strict:
                raise KeyError(f"dataset {name!r} is not one of {self.names}")
            name = UNKNOWN
        self.current = name
        counts = self.queued.get(name)
        if counts is None:
            self.queued[name] = [samples, tokens]
        else:
            counts[0] += samples
            counts[1] += tokens

    def flush(self, run: Sink) -> None:
        """The step has ended: hand what it consumed to the run, whose next step event carries it."""
        if run is not self._sizes_sent_to:
            self._sizes_sent_to = run
            sizes = dict(zip(self.names, self.sizes, strict=True))
            run.facts({"dataset_sizes": sizes, "dataset_ratios": self.ratios})
        for name, (samples, tokens) in self.queued.items():
            run.dataset(name, samples=samples, tokens=tokens)
            counts = self.seen.setdefault(name, [0, 0])
            counts[0] += samples
            counts[1] += tokens
        self.queued = {}

    def coverage_percent(self, name: str) -> float | None:
        """Examples seen over the dataset's size, on this rank; above 100 in later epochs. None for an unknown name."""
        if name not in self.ratios:
            return None
        return 100.0 * self.seen[name][0] / self.sizes[self.names.index(name)]


def dataset_at(index_map: Sequence[tuple[int, int]], names: Sequence[str], cursor: int) -> str:
    """The dataset of the example at ``cursor`` of a TaskMixture, which wraps around. UNKNOWN for an index without name.

    ``index_map`` holds (task index, index inside the task) in reading order.
    """
    if not index_map:
        return names[0] if names else UNKNOWN
    task = index_map[cursor % len(index_map)][0]
    return names[task] if 0 <= task < len(names) else UNKNOWN


def datasets_of_rank(
    mixture: Any, names: Sequence[str], rank: int, world_size: int, *, epochs: int = 1
) -> Iterator[tuple[int, str]]:
    """(index, dataset) in the order in which a rank reads: ``range(rank, len(mixture), world_size)``, ``epochs`` times.

    A mixture without ``index_map`` is a single dataset: the first name.
    """
    index_map = getattr(mixture, "index_map", None) or []
    for _ in range(epochs):
        for index in range(rank, len(mixture), world_size):
            yield index, dataset_at(index_map, names, index)
