"""Which sinks there are: one table, and third parties' entry points. Importing this loads none of them.

Given: a name. Hands on: the sink's class.
Never: imports a sink nobody asked for.
"""

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from sidecar.errors import Exit, UserError
from sidecar.sinks.base import Sink

SINKS: dict[str, str] = {
    "wandb": "sidecar.sinks.wandb:WandbSink",
    "tensorboard": "sidecar.sinks.tensorboard:TensorBoardSink",
    "jsonl": "sidecar.sinks.files:JsonLinesSink",
    "csv": "sidecar.sinks.files:CsvSink",
    "parquet": "sidecar.sinks.parquet:ParquetSink",
    "otlp": "sidecar.sinks.otlp:OtlpSink",
}

PACKAGES = {"opentelemetry": "'trainer-sidecar[otlp]'", "pyarrow": "'trainer-sidecar[parquet]'"}
"""What to install for a missing module, where that is not its own name."""

ENTRY_POINTS = "trainer_sidecar.sinks"

OFF = frozenset({"none", "dummy", "off", ""})
"""Words that ask for no sink at all."""


class UnknownSink(UserError, ValueError):
    """No such sink; the remedy lists those there are."""

    def __init__(self, name: str, known: list[str]) -> None:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        super().__init__(f"unknown sink {name[:60]!r}", f"use one of: {', '.join([*known, 'none'])}{hint}")


class SinkNotInstalled(UserError, ValueError):
    """The sink is known, its library is missing."""

    def __init__(self, name: str, error: ImportError) -> None:
        missing = (error.name or str(error)).partition(".")[0]
        remedy = f"pip install {PACKAGES.get(missing, missing)}"
        super().__init__(f"sink {name} needs {missing}, which is not installed", remedy, Exit.MISSING)


def known() -> list[str]:
    """Every name that ``load`` takes, ours first."""
    theirs = sorted(point.name for point in _third_parties())
    return [*SINKS, *(name for name in theirs if name not in SINKS)]


def target_of(name: str) -> str:
    """``name`` as "module:Class", nothing imported. Raises UnknownSink."""
    if name in SINKS:
        return SINKS[name]
    for point in _third_parties():
        if point.name == name:
            return point.value
    raise UnknownSink(name, known())


def load(name: str) -> type[Sink]:
    """The sink's class. Raises UnknownSink or SinkNotInstalled."""
    try:
        return resolve(target_of(name))
    except ImportError as error:
        raise SinkNotInstalled(name, error) from None


def resolve(target: str) -> type[Sink]:
    """"module:Class" imported."""
    module, _, attribute = target.partition(":")
    found: type[Sink] = getattr(import_module(module), attribute)
    return found


def names(words: str | list[str] | tuple[str, ...] | None) -> list[str]:
    """A user's "wandb,tensorboard" or list as known names, each once, in order. Raises UnknownSink."""
    parts = words.split(",") if isinstance(words, str) else list(words or ())
    wanted = [part.strip().lower() for part in parts]
    for name in wanted:
        if name not in OFF:
            target_of(name)
    return list(dict.fromkeys(name for name in wanted if name not in OFF))


@cache
def _third_parties() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))
