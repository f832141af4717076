"""Text to numbers and back: one token per UTF-8 byte, plus a few special tokens. Nothing to train, nothing to download.

>>> ByteTokenizer().encode("hi")
[104, 105]
"""

from collections.abc import Iterable

BOS = 256  # Begins every document and conversation.
USER_START, USER_END, ASSISTANT_START, ASSISTANT_END = 257, 258, 259, 260
PAD = 261  # Fills a row up; never predicted, never looked at.

VOCAB_SIZE = 320  # 256 bytes and the special tokens, rounded up to a multiple of 64: matrix units like round numbers.

IDENTITY = "bytes+6 marks, 320"  # Written into checkpoints: weights are worth nothing under another tokenizer.


class ByteTokenizer:
    vocab_size = VOCAB_SIZE
    bos = BOS

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="surrogatepass"))

    def decode(self, tokens: Iterable[int]) -> str:
        """Special tokens are left out; bytes that are not UTF-8 (a model may write anything) show as \\xNN."""
        return bytes(token for token in tokens if token < 256).decode("utf-8", errors="backslashreplace")
