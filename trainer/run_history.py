"""Continuous training: the runs that trained one after the other in the same folder, kept in OUT/runs.json.

Given: --out. Hands on: this run's number, and the continuous/* metrics at its end.
Never: gives two runs one number (a resumed run keeps its own), or counts samples twice or not at all when a run is
killed and resumed: samples are added with the checkpoint that has seen them.
"""

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trainer.config import Config
from trainer.distributed import World
from trainer.errors import UserError
from trainer.files import replacing

FILE = "runs.json"


@dataclass
class RunHistory:
    run_number: int = 1
    total_runs: int = 0  # Completed.
    total_samples_trained: int = 0  # Seen by the checkpoints in the folder.
    started_seconds: float = 0.0  # When the first run began, in seconds since 1970.

    def name_of(self, template: str | None) -> str | None:
        """``qwen_run_{n}`` -> qwen_run_3."""
        return template and template.replace("{n}", str(self.run_number))


def begin_run(config: Config, world: World) -> RunHistory:
    """Take the next run number, or the last one again to resume. Without --out there is no history."""
    if not config.out:
        return RunHistory(started_seconds=time.time())
    path = Path(config.out) / FILE
    history = _read(path) if path.exists() else RunHistory(run_number=0, started_seconds=time.time())
    last = int(world.sum_over_ranks(history.run_number if world.is_main else 0)[0])
    history.run_number = last if last and config.resume else last + 1
    if world.is_main:
        try:
            _write(path, history)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}", "free some space, or give --out another folder"
            ) from error
    return history


def record_checkpoint(history: RunHistory, config: Config, samples: int) -> None:
    """``samples``: seen since this process began, by all ranks."""
    if config.out:
        seen = history.total_samples_trained + samples
        _try_write(Path(config.out) / FILE, replace(history, total_samples_trained=seen))


def end_run(history: RunHistory, config: Config, samples: int) -> dict[str, float]:
    """Count this run as completed; returns the history as metrics."""
    history.total_runs += 1
    history.total_samples_trained += samples
    if config.out:
        _try_write(Path(config.out) / FILE, history)
    return {
        "continuous/run_number": history.run_number,
        "continuous/total_runs": history.total_runs,
        "continuous/last_trained_id": history.total_samples_trained,
        "continuous/total_samples_trained": history.total_samples_trained,
        "continuous/uptime_hours": (time.time() - history.started_seconds) / 3600,
    }


def _read(path: Path) -> RunHistory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunHistory)
    except (msgspec.MsgspecError, OSError) as error:
        raise UserError(f"{path} is not what this trainer wrote", "remove it, or give --out another folder") from error


def _try_write(path: Path, history: RunHistory) -> None:
    """A full disk leaves the file as it was: no reason to end a run that is doing well."""
    with contextlib.suppress(OSError):
        _write(path, history)


def _write(path: Path, history: RunHistory) -> None:
    with replacing(path) as file:
        file.write(msgspec.json.encode(history))
