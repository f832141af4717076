"""A tiny corpus, tiny settings, and a run that is written down instead of sent."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_run import Recorder

import sidecar
from trainer.config import CONFIGS
from trainer.distributed import process_group
from trainer.loop import train_stage
from trainer.weights import find_weights

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "wizards", "boil", "quartz")

Trained = Callable[..., Recorder]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty small files of simple sentences."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(20):
        words = (WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(400))
        (folder / f"text_{number:02d}.txt").write_text(f"text {number}: {' '.join(words)}")
    return folder


@pytest.fixture
def tiny(corpus: Path) -> dict[str, object]:
    """Flags of a run of a second or less."""
    return {
        "data": str(corpus), "n_layer": 1, "n_head": 2, "n_embd": 32, "seq_len": 32, "batch_size": 4, "steps": 8,
        "learning_rate": 1e-2, "threads": 1, "eval_iters": 2, "eval_freq": 1000, "generate_freq": 2000, "quiet": True,
    }  # fmt: skip


@pytest.fixture
def tiny_chat(tiny: dict[str, object]) -> dict[str, object]:
    """The same for the stages that read conversations: built-in data."""
    return {**tiny, "data": None, "seq_len": 128, "eval_examples": 4}


@pytest.fixture
def trained(tiny: dict[str, object], tiny_chat: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Trained:
    """``trained("sft", steps=5, ...)`` trains with the tiny flags but for those given; returns what the sidecar was
    told. The stage is pretrain if none is named."""
    monkeypatch.setattr("trainer.monitoring.measured_peak_flops", lambda *_: 1e11)
    monkeypatch.setattr("trainer.loop.generate_samples", short_samples)

    def run(stage: str = "pretrain", **flags: object) -> Recorder:
        told: list[Recorder] = []

        def begin(**begun: object) -> Recorder:
            told.append(Recorder(**begun))
            return told[0]

        monkeypatch.setattr(sidecar, "init", begin, raising=False)
        config = CONFIGS[stage](**{**(tiny if stage == "pretrain" else tiny_chat), **flags})
        with process_group("cpu", threads=1) as here:
            train_stage(stage, config, here, find_weights(config))
        return told[0]

    return run


def short_samples(model: torch.nn.Module, prompts: tuple[str, ...], **options: object) -> dict[str, str]:
    from trainer.generate import generate_samples

    return generate_samples(model, prompts, max_tokens=4, **options)
