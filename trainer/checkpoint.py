"""All that a run needs to go on as if it had never stopped, in one file that is either whole or not there.

    python -m trainer pretrain --out runs/a --checkpoint_freq 100
    python -m trainer pretrain --resume runs/a

Given: model, optimizer, positions. Hands on: FOLDER/STAGE/checkpoint_000300.pt.
Never: leaves half a file (files.py), or runs code from one (weights_only).
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trainer.distributed import World
from trainer.errors import UserError
from trainer.files import replacing

FORMAT = 3
NAME = re.compile(r"checkpoint_(\d+)\.pt")


def path_for(folder: str | Path, step: int) -> Path:
    return Path(folder) / f"checkpoint_{step:06d}.pt"


def save(path: Path, state: dict[str, Any]) -> int:
    """Write atomically; returns the number of bytes. Raises OSError."""
    with replacing(path) as file:
        _dump({"format": FORMAT, **state}, file)
    return path.stat().st_size


def newest(where: str, stage: str) -> Path:
    """The file ``where``; of a folder, the newest in it or in its subfolder ``stage``. Raises UserError."""
    path = Path(where)
    if path.is_dir():
        path = newest_in(path) or newest_in(path / stage) or path
    if not path.is_file():
        raise UserError(f"no checkpoint at {where}", "give --resume a checkpoint_*.pt, or a folder that holds one")
    return path


def out_folder(where: str, stage: str) -> Path:
    """The --out folder that the checkpoint ``newest`` finds was written to. Raises UserError if there is none."""
    folder = newest(where, stage).parent
    return folder.parent if folder.name == stage else folder


def newest_in(folder: Path) -> Path | None:
    """The checkpoint of the highest step in ``folder`` itself."""
    found = {int(name[1]): path for path in folder.glob("*") if (name := NAME.fullmatch(path.name))}
    return found[max(found)] if found else None


def load_file(path: Path, *needed: str) -> dict[str, Any]:
    """A checkpoint with at least the keys ``needed``, on the CPU. Raises UserError: missing, damaged, no checkpoint."""
    try:
        if damaged := zipfile.ZipFile(path).testzip():  # torch does not compare the checksums that it writes.
            raise ValueError(f"{damaged} is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file, or one that is no checkpoint, can raise anything.
        raise UserError(
            f"{path} is not a checkpoint that can be read", "take an earlier one from the same folder"
        ) from error
    with validating(path):
        if state["format"] != FORMAT:
            raise UserError(
                f"{path} is a checkpoint of format {state['format']}, this trainer reads {FORMAT}",
                "take the version of the trainer that wrote it",
            )
        if missing := [key for key in needed if key not in state]:
            raise ValueError(f"no {missing[0]!r}")
    return state


@contextmanager
def validating(path: Path) -> Iterator[None]:
    """Whatever is wrong with the content of ``path`` becomes a UserError."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # In a file made by hand, any part may be of any type.
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{path} is not a checkpoint of this version of the trainer: {type(error).__name__}: {reason}",
            "take one that it wrote",
        ) from error


def check_matches(state: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Raises UserError if the checkpoint is of another stage, model, data or number of ranks than this run."""
    for key, value in expected.items():
        had = state.get(key)
        if had == value:
            continue
        if isinstance(had, dict) and isinstance(value, dict):  # Name what differs: the rest would fill the screen.
            part = next(name for name in {**value, **had} if had.get(name) != value.get(name))
            key, had, value = f"{key} {part}", had.get(part), value.get(part)
        raise UserError(
            f"{where} was written with {key} = {had}, this run has {value}",
            "resume with the flags and the number of ranks it was started with, or take its weights: --from_weight",
        )


def random_state(world: World) -> dict[str, list[torch.Tensor]]:
    """Every rank's random numbers; all ranks must call this together."""
    state = {"cpu": world.gather(torch.get_rng_state())}
    if world.device.type == "cuda":
        state["cuda"] = world.gather(torch.cuda.get_rng_state(world.device))
    return state


def restore_random_state(state: dict[str, list[torch.Tensor]], world: World) -> None:
    torch.set_rng_state(state["cpu"][world.rank])
    if world.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"][world.rank], world.device)


def _dump(state: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, but with the OSError of a failed write, which torch hides behind a RuntimeError."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
