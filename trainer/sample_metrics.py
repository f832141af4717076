"""Numbers about sampled text that show when a model degenerates: repetition, diversity, entropy, n-gram perplexity.

Given: what the model added to its prompts. Hands on: samples/* metrics.
Never: learns from what the model writes: the n-gram model counts the training text once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

ORDER = 3
BYTES_MAX = 400_000
"""Enough for a steady trigram, and counted in a fraction of a second."""


def sample_metrics(continuations: Sequence[str]) -> dict[str, float]:
    """Means over the texts: length in characters, share of different word pairs, share of characters that only repeat,
    bits per character.

    A model that degenerates ("the the the ...") shows as distinct_2 falling to 0 and repetition rising to 1.
    """
    if not continuations:
        return {}
    count = len(continuations)
    return {
        "samples/length": sum(map(len, continuations)) / count,
        "samples/distinct_2": sum(map(distinct_2, continuations)) / count,
        "samples/repetition": sum(map(repetition, continuations)) / count,
        "samples/entropy": sum(map(entropy, continuations)) / count,
    }


def distinct_2(text: str) -> float:
    """Different pairs of neighbouring words over all pairs; 1 for a text of less than two words. (Li et al. 2016
    divide by the number of words, which is one more.)"""
    words = text.split()
    pairs = list(zip(words, words[1:], strict=False))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def entropy(text: str) -> float:
    """Bits per character if characters were drawn one by one; 0 for a text of one kind of character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values()) if text else 0.0


def repetition(text: str, size: int = 8) -> float:
    """Share of the 8-character pieces that occurred before in the text; 0 for one shorter than that. (seq-rep-n of
    Welleck et al. 2020, of characters.)"""
    pieces = [text[i : i + size] for i in range(len(text) - size + 1)]
    return 1.0 - len(set(pieces)) / len(pieces) if pieces else 0.0


class NgramModel:
    """A character trigram, mixed with the shorter ones so that nothing is impossible (Jelinek-Mercer)."""

    WEIGHT = 0.75
    """Of the longer context, where it was seen at all."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        self.counts, self.contexts = Counter[bytes](), Counter[bytes]()
        """How often each piece of one to ORDER bytes occurs, and how often each piece is followed by another byte."""
        left = BYTES_MAX
        for document in documents:
            text = document[:left]
            left -= len(text)
            for size in range(1, ORDER + 1):
                self.counts.update(text[i : i + size] for i in range(len(text) - size + 1))
            if left <= 0:
                break
        for piece, count in self.counts.items():
            self.contexts[piece[:-1]] += count

    def perplexity(self, texts: Iterable[str]) -> float | None:
        """exp of the mean nats per byte over all texts; None if they are empty."""
        nats, count = 0.0, 0
        for text in texts:
            data = text.encode("utf-8", "replace")
            for place in range(len(data)):
                nats -= math.log(self._probability(data[max(0, place - ORDER + 1) : place + 1]))
                count += 1
        return math.exp(nats / count) if count else None

    def _probability(self, piece: bytes) -> float:
        """Of the last byte of ``piece``, given those before it."""
        probability = 1 / 256
        for size in range(1, len(piece) + 1):
            end = piece[-size:]
            followed = self.contexts[end[:-1]]
            if not followed:
                break
            probability = self.WEIGHT * self.counts[end] / followed + (1 - self.WEIGHT) * probability
        return probability
