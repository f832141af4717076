"""Public datasets by name: their files in a --data folder, and where each lies on the hub.

Given: nothing. Hands on: one table. In rows: SmolTalk 460 K, MMLU's auxiliary 100 K, GSM8K 8 K, ARC-Easy 2.3 K,
ARC-Challenge 1.1 K. Plain text has its own place (trainer/data/__init__.py).
"""

from typing import NamedTuple

from trainer.data.hub import SCHEME


class KnownDataset(NamedTuple):
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


KNOWN_DATASETS = {
    "smoltalk": KnownDataset("SmolTalk", "smoltalk", "HuggingFaceTB/smol-smoltalk", "data/train-*", "data/test-*"),
    "mmlu": KnownDataset("MMLU", "mmlu", "cais/mmlu", "auxiliary_train/train-*", "all/test-*"),
    "gsm8k": KnownDataset("GSM8K", "gsm8k", "openai/gsm8k", "main/train-*", "main/test-*"),
    "arc-easy": KnownDataset("ARC-Easy", "arc", "allenai/ai2_arc", "ARC-Easy/train-*", "ARC-Easy/test-*"),
    "arc-challenge": KnownDataset(
        "ARC-Challenge", "arc", "allenai/ai2_arc", "ARC-Challenge/train-*", "ARC-Challenge/test-*"
    ),
    "preferences": KnownDataset(
        "preferences", "preference", "HuggingFaceH4/ultrafeedback_binarized", "data/train_prefs-*", "data/test_prefs-*"
    ),
    "prompts": KnownDataset("prompts", "prompts"),
    "humaneval": KnownDataset("HumanEval", "humaneval", "openai/openai_humaneval", None, "openai_humaneval/test-*"),
}
"""File or folder below --data -> what it holds."""
