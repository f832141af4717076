"""--data_config: a file that names the data sets of a stage.

    datasets:
      - {name: SmolTalk, format: smoltalk, path: smoltalk/train.jsonl, stop: 10000}
      - {name: GSM8K, format: gsm8k, path: "hf://datasets/openai/gsm8k/main/train-*", val_path: gsm8k_test.jsonl}

Given: a YAML, TOML or JSON file; relative paths count from its folder. Hands on: Sources.
Never: takes a key that it does not know, or two sets of one name.
"""

import json
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data import hub
from trainer.errors import UserError

KEYS = {"name": str, "format": str, "path": str, "val_path": str, "stop": int}
NEEDED = ("name", "format", "path")
REMEDY = "a data config is YAML, TOML or JSON: datasets, each with name, format and path"


class Source(NamedTuple):
    name: str
    format: str
    path: str | None
    """A file, a folder or an address on the hub."""
    val_path: str | None = None
    stop: int | None = None


def read_sources(file: Path, formats: Container[str]) -> list[Source]:
    """Raises UserError with what is wrong, and in which set."""
    try:
        rows = _parsed(file)["datasets"]
        sources = [_source(row, file.parent, formats) for row in rows]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "check the path of --data_config") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(f"{file} is not a data config: {reason}", REMEDY) from error
    if not sources:
        raise UserError(f"{file} names no datasets", REMEDY)
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{file} names two datasets {min(twice)!r}", "give each a name of its own")
    return sources


def _parsed(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    return _yaml(text) if file.suffix in (".yaml", ".yml") else tomllib.loads(text)


def _yaml(text: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            "reading YAML needs pyyaml, which is not installed", "pip install pyyaml, or write it as TOML"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _source(row: dict[str, Any], folder: Path, formats: Container[str]) -> Source:
    if unknown := set(row) - set(KEYS):
        raise ValueError(f"unknown key {min(unknown)!r}, choose from {', '.join(KEYS)}")
    if missing := [key for key in NEEDED if key not in row]:
        raise KeyError(missing[0])
    for key, value in row.items():
        if type(value) is not KEYS[key]:
            raise TypeError(f"{key} is {value!r}, which is no {KEYS[key].__name__}")
    if row["format"] not in formats:
        raise ValueError(f"unknown format {row['format']!r}, choose from {', '.join(formats)}")  # type: ignore[arg-type]
    if row.get("stop", 1) < 1:
        raise ValueError(f"stop is {row['stop']}, which is not above zero")
    places = {key: _place(row[key], folder) for key in ("path", "val_path") if key in row}
    return Source(row["name"], row["format"], places["path"], places.get("val_path"), row.get("stop"))


def _place(text: str, folder: Path) -> str:
    return text if hub.is_address(text) else str(folder / Path(text).expanduser())
