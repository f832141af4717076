"""Which datasets a stage mixes, and where they come from: built in, local files in their published formats, or the hub.

    --data FOLDER          FOLDER/smoltalk, FOLDER/mmlu, FOLDER/gsm8k.jsonl ...: what is there of known_datasets.py
    --data hub             the same sets from the hub
    --data_config FILE     YAML, TOML or JSON: datasets with name, format and path, optionally stop and val_path

``load`` is the entry point. Given: a stage's name and the flags. Hands on: its Tasks.
"""

import glob
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data import hub
from trainer.data.corpus import split
from trainer.data.quality import DataReport
from trainer.errors import UserError
from trainer.tasks import builtin
from trainer.tasks.data_config import Source, read_sources
from trainer.tasks.example import Task
from trainer.tasks.formats import FORMATS
from trainer.tasks.known_datasets import KNOWN_DATASETS, KnownDataset
from trainer.tasks.rows import files_of, keep, read

HELD_OUT = {"test", "val", "valid", "validation", "dev", "eval"}
"""A file is for validation if its name, or that of a folder around it, has one of these words."""


class Recipe(NamedTuple):
    builtin: tuple[Callable[[], Task[Any]], ...]
    known: tuple[str, ...]
    """Names in KNOWN_DATASETS."""
    formats: tuple[str, ...]
    """What the stage can use."""
    stop: dict[str, int] = {}
    """At most this many training rows of a dataset."""
    trains: bool = True


CHAT_FORMATS = ("smoltalk", "mmlu", "arc", "gsm8k", "prompts")
HELD_OUT_FORMATS = ("humaneval",)
"""Benchmarks that nobody trains on: all of their rows validate."""

RECIPES = {
    "midtrain": Recipe((builtin.chat, builtin.modules, builtin.sums), ("smoltalk", "mmlu", "gsm8k"), CHAT_FORMATS),
    "sft": Recipe(
        (builtin.modules, builtin.sums, builtin.chat),
        ("arc-easy", "arc-challenge", "gsm8k", "smoltalk"), CHAT_FORMATS, {"smoltalk": 10_000},
    ),
    "dpo": Recipe((builtin.preferences,), ("preferences",), ("preference",)),
    "ppo": Recipe((builtin.sums,), ("prompts", "gsm8k"), ("prompts", "gsm8k")),
    "eval": Recipe(
        (builtin.modules, builtin.sums, builtin.programs),
        ("mmlu", "arc-easy", "arc-challenge", "gsm8k", "humaneval"), (*CHAT_FORMATS, "humaneval"), trains=False,
    ),
}  # fmt: skip


def load(
    stage: str, data: str | None, data_config: str | None, report: DataReport, val_fraction: float,
    without_hub: str = "refuse",
) -> list[Task[Any]]:  # fmt: skip
    """The stage's tasks. Raises UserError: nothing there, an unknown format, an empty half, a refused row, no hub."""
    recipe = RECIPES[stage]
    if not (data or data_config):
        return _built_in(recipe, report)
    try:
        sources = _sources(stage, data, data_config, report)
        return [_read(source, report, val_fraction, trains=recipe.trains) for source in sources]
    except hub.Unreachable as error:
        if without_hub != "builtin":
            raise
        report.reset()  # Some datasets may have come from the cache.
        report.remarks.append(f"{error.cause}: built-in data instead")
        return _built_in(recipe, report)


def check_files(stage: str, data: str | None, data_config: str | None) -> None:
    """Raises UserError if ``load`` would miss a file, so that a pipeline need not train for hours to find out."""
    for source in _sources(stage, data, data_config, DataReport()):
        for where in (source.path, source.val_path):
            if not hub.is_address(where):
                _files(where)


def _sources(stage: str, data: str | None, data_config: str | None, report: DataReport) -> list[Source]:
    """None for the built-in data."""
    recipe = RECIPES[stage]
    if data_config:
        return _configured(stage, data_config, report)
    if data == "hub":
        return _on_the_hub(recipe)
    if hub.is_address(data):
        raise UserError(f"nothing says of what format {data} is", "name it in a file for --data_config")
    return _found(stage, Path(data), recipe) if data else []


def _built_in(recipe: Recipe, report: DataReport) -> list[Task[Any]]:
    tasks = [make() for make in recipe.builtin]
    for task in tasks:
        for example in (*task.train, *task.val):
            keep(example, report.quality)  # Counted for data/* metrics; nothing built in is left out.
    return tasks


def _configured(stage: str, file: str, report: DataReport) -> list[Source]:
    """The datasets of a data config that the stage can use: one file may serve several stages."""
    sources, formats = read_sources(Path(file), FORMATS), RECIPES[stage].formats
    usable = [source for source in sources if source.format in formats]
    if not usable:
        raise UserError(f"{file} names no dataset that {stage} can use", f"add one of the formats {', '.join(formats)}")
    report.remarks += [f"{s.name}: not used, {stage} has no use for {s.format}" for s in sources if s not in usable]
    return usable


def _found(stage: str, folder: Path, recipe: Recipe) -> list[Source]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", "give --data a folder, hub, or nothing for the built-in data")
    sources = []
    for word in recipe.known:
        places = [folder / word, *(folder / f"{word}{suffix}" for suffix in (".jsonl", ".json", ".parquet"))]
        place = next((place for place in places if place.exists()), None)
        if place is not None:
            sources.append(_local(KNOWN_DATASETS[word], place, recipe.stop.get(word)))
    if not sources:
        raise UserError(
            f"{folder} has none of the data sets of {stage}: {', '.join(recipe.known)}",
            "name them so, or say what they are with --data_config FILE",
        )
    return sources


def _local(known: KnownDataset, place: Path, stop: int | None) -> Source:
    """A copy of the hub's repository is read by the hub's patterns, for it may hold several datasets."""
    patterns = [pattern for pattern in (known.train, known.val) if pattern]
    if patterns and place.is_dir() and all(any(place.glob(pattern)) for pattern in patterns):
        train, val = (pattern and f"{glob.escape(str(place))}/{pattern}" for pattern in (known.train, known.val))
        return Source(known.name, known.format, train, val, stop)
    return Source(known.name, known.format, str(place), None, stop)


def _on_the_hub(recipe: Recipe) -> list[Source]:
    known = {word: KNOWN_DATASETS[word] for word in recipe.known if KNOWN_DATASETS[word].repo}
    return [Source(k.name, k.format, *k.addresses(), recipe.stop.get(word)) for word, k in known.items()]


def _read(source: Source, report: DataReport, val_fraction: float, *, trains: bool) -> Task[Any]:
    """Files that are held out by name validate; without any, a share of the rows does."""
    to_example, before = FORMATS[source.format], report.count
    files = _files(source.path)
    held_out = _files(source.val_path) or [file for file, path in files.items() if is_held_out(path)]
    if not held_out and source.format in HELD_OUT_FORMATS:
        held_out = list(files)
    train_files = [file for file in files if file not in held_out] if trains or not held_out else []
    train = read(train_files, to_example, report, source.stop)
    val = read(list(held_out), to_example, report)
    if report.count > before and not train + val:
        raise UserError(
            f"{source.name}: no row is of the format {source.format!r}: {report.named[-1]}",
            "check the file, or name another format with --data_config FILE",
        )
    if not held_out:
        train, val = split(train, val_fraction, f"{source.name} in {source.path}")
    if not val or (trains and not train):
        skipped = f": {report.sentence()}" if report.count > before else ""
        raise UserError(
            f"{source.name} in {source.path} leaves the {'validation' if train else 'training'} split empty{skipped}",
            "add rows to it, or files of their own with val in the name",
        )
    return Task(source.name, train, val)


def _files(where: str | None) -> dict[Path, str]:
    """The files of a folder, file, pattern or hub address, each with the part of its path that says whether it is held
    out."""
    if where is None:
        return {}
    if hub.is_address(where):
        return {file: file.name for file in hub.fetch(hub.parse(where))}
    root = Path(where)
    if not root.exists() and (matches := sorted(glob.glob(where, recursive=True))):
        found = {file: file.name for match in matches for file in files_of(Path(match))}
    else:
        found = {file: str(file.relative_to(root)) if file != root else file.name for file in files_of(root)}
    once = {file.parent.resolve() / file.name: file for file in reversed(found)}  # A pattern may have followed a loop.
    return {file: found[file] for file in map(Path, hub.without_copies(str(file) for file in reversed(once.values())))}


def is_held_out(path: str) -> bool:
    return not HELD_OUT.isdisjoint(re.split(r"[^a-z]+", path.lower()))
