"""A yardstick for samples that does not move: how surprised is a small n-gram of the training text?

Given: documents of the training text. Hands on: the perplexity of a text, per character.
Never: learns from what the model writes.
"""

import math
from collections import Counter
from collections.abc import Iterable

ORDER = 3
BYTES_MAX = 400_000
"""Enough for a steady trigram; a fraction of a second to count."""


class Reference:
    """A character trigram, mixed with the shorter ones so that nothing is impossible (Jelinek-Mercer)."""

    WEIGHT = 0.75
    """Of the longer context, where it was seen at all."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        self.counts = [Counter[bytes]() for _ in range(ORDER + 1)]
        left = BYTES_MAX
        for document in documents:
            text = document[:left]
            left -= len(text)
            for size in range(ORDER + 1):
                self.counts[size].update(text[i : i + size] for i in range(len(text) - size + 1))
            if left <= 0:
                break

    def perplexity(self, texts: Iterable[str]) -> float | None:
        """exp of the mean surprise per byte of all texts together; None if they hold nothing."""
        surprise, count = 0.0, 0
        for text in texts:
            data = text.encode("utf-8", "replace")
            for place in range(len(data)):
                surprise -= math.log(self._share(data[max(0, place - ORDER + 1) : place + 1]))
                count += 1
        return math.exp(surprise / count) if count else None

    def _share(self, piece: bytes) -> float:
        """Of the last byte of ``piece``, after those before it."""
        share = 1 / 256
        for size in range(1, len(piece) + 1):
            end = piece[-size:]
            before = self.counts[size - 1][end[:-1]]
            if not before:
                break
            share = self.WEIGHT * self.counts[size][end] / before + (1 - self.WEIGHT) * share
        return share
