"""The documents' data sets by name: what a folder of them is searched for, and where each lies on the hub.

Given: nothing. Hands on: one table. In rows: SmolTalk 460 K, MMLU's auxiliary 100 K, GSM8K 8 K, ARC-Easy 2.3 K,
ARC-Challenge 1.1 K. Plain text has its own place (trainer/data/__init__.py).
"""

from typing import NamedTuple

from trainer.data.hub import SCHEME


class Known(NamedTuple):
    name: str
    """In every outlet."""
    format: str
    repo: str | None = None
    """On the hub."""
    train: str | None = None
    """Files to learn from, relative to the repository; None if there are none."""
    val: str | None = None

    def addresses(self) -> tuple[str | None, str | None]:
        """(training, validation)"""
        base = f"{SCHEME}{self.repo}/"
        return self.train and base + self.train, self.val and base + self.val


KNOWN = {
    "smoltalk": Known("SmolTalk", "smoltalk", "HuggingFaceTB/smol-smoltalk", "data/train-*", "data/test-*"),
    "mmlu": Known("MMLU", "mmlu", "cais/mmlu", "auxiliary_train/train-*", "all/test-*"),
    "gsm8k": Known("GSM8K", "gsm8k", "openai/gsm8k", "main/train-*", "main/test-*"),
    "arc-easy": Known("ARC-Easy", "arc", "allenai/ai2_arc", "ARC-Easy/train-*", "ARC-Easy/test-*"),
    "arc-challenge": Known("ARC-Challenge", "arc", "allenai/ai2_arc", "ARC-Challenge/train-*", "ARC-Challenge/test-*"),
    "preferences": Known(
        "preferences", "preference", "HuggingFaceH4/ultrafeedback_binarized", "data/train_prefs-*", "data/test_prefs-*"
    ),
    "prompts": Known("prompts", "prompts"),
    "humaneval": Known("HumanEval", "humaneval", "openai/openai_humaneval", None, "openai_humaneval/test-*"),
}
"""File or folder below --data -> what it holds."""
