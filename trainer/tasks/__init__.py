"""Which data sets a stage mixes, and where they come from: built in, or local files in their true formats.

    --data FOLDER          FOLDER/smoltalk, FOLDER/mmlu, FOLDER/gsm8k.jsonl ...: whatever of KNOWN is there
    --data_config FILE     a TOML or JSON file: [[datasets]] with name, format, path, and if you like stop and val_path

``load`` is the one door. Given: a stage's name and the flags. Hands on: its Tasks.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.corpus import split
from trainer.errors import UserError
from trainer.tasks import builtin
from trainer.tasks.example import Task
from trainer.tasks.formats import FORMATS
from trainer.tasks.rows import Problems, files_of, read

KNOWN = {
    "smoltalk": ("SmolTalk", "smoltalk"),
    "mmlu": ("MMLU", "mmlu"),
    "gsm8k": ("GSM8K", "gsm8k"),
    "arc-easy": ("ARC-Easy", "arc"),
    "arc-challenge": ("ARC-Challenge", "arc"),
    "preferences": ("preferences", "preference"),
    "prompts": ("prompts", "prompts"),
    "humaneval": ("HumanEval", "humaneval"),
}
"""File or folder -> (name in every outlet, format)."""


class Recipe(NamedTuple):
    builtin: tuple[Callable[[], Task[Any]], ...]
    known: tuple[str, ...]
    stop: dict[str, int] = {}
    """At most this many rows of a set, as the documents have it."""


RECIPES = {
    "midtrain": Recipe((builtin.chat, builtin.modules, builtin.sums), ("smoltalk", "mmlu", "gsm8k")),
    "sft": Recipe(
        (builtin.modules, builtin.sums, builtin.chat),
        ("arc-easy", "arc-challenge", "gsm8k", "smoltalk"), {"smoltalk": 10_000},
    ),
    "dpo": Recipe((builtin.preferences,), ("preferences",)),
    "ppo": Recipe((builtin.sums,), ("prompts", "gsm8k")),
    "eval": Recipe(
        (builtin.modules, builtin.sums, builtin.programs),
        ("mmlu", "arc-easy", "arc-challenge", "gsm8k", "humaneval"),
    ),
}  # fmt: skip


class Source(NamedTuple):
    name: str
    format: str
    path: Path
    val_path: Path | None = None
    stop: int | None = None


def load(
    stage: str, data: str | None, data_config: str | None, problems: Problems, val_fraction: float
) -> list[Task[Any]]:
    """The stage's tasks. Raises UserError: nothing there, an unknown format, an empty half, a refused row."""
    recipe = RECIPES[stage]
    if data_config:
        sources = _configured(Path(data_config).expanduser())
    elif data:
        sources = _found(stage, Path(data).expanduser(), recipe)
    else:
        return [make() for make in recipe.builtin]
    return [_read(source, problems, val_fraction) for source in sources]


def _found(stage: str, folder: Path, recipe: Recipe) -> list[Source]:
    sources = []
    for word in recipe.known:
        places = [folder / word, *(folder / f"{word}{suffix}" for suffix in (".jsonl", ".json", ".parquet"))]
        place = next((place for place in places if place.exists()), None)
        if place is not None:
            sources.append(Source(*KNOWN[word], place, None, recipe.stop.get(word)))
    if not sources:
        raise UserError(
            f"{folder} has none of the data sets of {stage}: {', '.join(recipe.known)}",
            "name them so, or say what they are with --data_config FILE",
        )
    return sources


def _configured(file: Path) -> list[Source]:
    remedy = "a data config is TOML or JSON: [[datasets]] with name, format and path"
    try:
        text = file.read_text(encoding="utf-8")
        rows = (json.loads(text) if file.suffix == ".json" else tomllib.loads(text))["datasets"]
        sources = [_source(row, file.parent) for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "check the path of --data_config") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a data config: {error}", remedy) from error
    if not sources:
        raise UserError(f"{file} names no datasets", remedy)
    return sources


def _source(row: dict[str, Any], folder: Path) -> Source:
    if unknown := set(row) - {"name", "format", "path", "val_path", "stop"}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    if row["format"] not in FORMATS:
        raise ValueError(f"unknown format {row['format']!r}, choose from {', '.join(FORMATS)}")
    val_path = folder / row["val_path"] if "val_path" in row else None
    return Source(row["name"], row["format"], folder / row["path"], val_path, row.get("stop"))


def _read(source: Source, problems: Problems, val_fraction: float) -> Task[Any]:
    """Files with test or val in their name validate; without any, a share of the rows does."""
    understand, before = FORMATS[source.format], problems.count
    files = files_of(source.path)
    held_back = [file for file in files if any(word in file.name for word in ("test", "val"))]
    if source.val_path:
        held_back = files_of(source.val_path)
    train = read([file for file in files if file not in held_back], understand, problems, source.stop)
    if held_back:
        val = read(held_back, understand, problems)
    else:
        train, val = split(train, val_fraction, f"{source.name} in {source.path}")
    if not train or not val:
        raise UserError(
            f"{source.name} in {source.path} leaves the {'training' if not train else 'validation'} split empty",
            "add rows to it, or files of their own with val in the name",
        )
    return Task(source.name, train, val, problems.count - before)
