"""One run after the other on the same folder: how many there were, what they saw, since when.

Given: --out. Hands on: this run's number, and continuous/* at its end; the books are OUT/runs.json.
Never: gives a number to two runs (one that is resumed keeps its own), counts samples twice or not at all when a run is
killed and resumed (they are booked with the checkpoint that has seen them), or loses the books to a crash.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.config import Config
from trainer.distributed import World
from trainer.errors import UserError


@dataclass
class History:
    run_number: int = 1
    total_runs: int = 0
    """Completed."""
    total_samples_trained: int = 0
    """That the checkpoints in the folder have seen."""
    started_seconds: float = 0.0
    """When the first run began, since 1970."""

    def name_of(self, template: str | None) -> str | None:
        """``qwen_run_{n}`` -> qwen_run_3."""
        return template and template.replace("{n}", str(self.run_number))


def begin(config: Config, world: World) -> History:
    """Take the next number; to resume, the last one again. Without --out there are no books: every run is the first."""
    fresh = History(started_seconds=time.time())
    if not config.out:
        return fresh
    path = Path(config.out) / "runs.json"
    try:
        history = History(**json.loads(path.read_text())) if path.exists() else History(0, 0, 0, fresh.started_seconds)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not what this trainer wrote", "remove it, or give --out another folder") from error
    last = int(world.sums(history.run_number if world.is_main else 0)[0])
    history.run_number = last if last and config.resume else last + 1
    if world.is_main:
        _write(path, history)
    return history


def note(history: History, config: Config, samples: int) -> None:
    """A checkpoint is written. ``samples``: of this process' ranks so far, in all."""
    if config.out:
        seen = history.total_samples_trained + samples
        _keep(Path(config.out), replace(history, total_samples_trained=seen))


def end(history: History, config: Config, samples: int) -> dict[str, float]:
    """The books with this run in them, as metrics."""
    history.total_runs += 1
    history.total_samples_trained += samples
    if config.out:
        _keep(Path(config.out), history)
    return {
        "continuous/run_number": history.run_number,
        "continuous/total_runs": history.total_runs,
        "continuous/last_trained_id": history.total_samples_trained,
        "continuous/total_samples_trained": history.total_samples_trained,
        "continuous/uptime_hours": (time.time() - history.started_seconds) / 3600,
    }


def _keep(folder: Path, history: History) -> None:
    """On a disk that is full by now, the books stay as they were: no reason to end a run that is doing well."""
    with contextlib.suppress(OSError):
        _write(folder / "runs.json", history)


def _write(path: Path, history: History) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(asdict(history)))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
