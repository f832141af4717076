"""From words to a Config: command line > environment > file > default, each value knowing where it came from.

    TRAINER_BATCH_SIZE=8 python -m trainer sft --config my.toml --epochs 1

Given: the words after the command's name. Hands on: one frozen Config.
Never: guesses at a misspelt flag or key; of a variable it says so. Nothing else in the trainer reads the environment
for settings.

Every flag has a variable TRAINER_<FLAG>; customary ones (WANDB_PROJECT, EVAL_FREQ ...) count, too.
A file is TOML: flags at the top hold for every command that has them, those under [sft] for that one.
"""

import argparse
import dataclasses
import difflib
import functools
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trainer.config import CONFIGS, PATHS, Config, PipelineConfig
from trainer.errors import UsageError

C = TypeVar("C", bound=Config)
Field = dataclasses.Field[Any]
Layer = tuple[str, Mapping[str, Any]]  # (origin, values)
TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
LIST_SEPARATOR = "|"
PREFIX = "TRAINER_"
SHOW_CONFIG = ("--show_config", "--show-config")


def parse(kind: type[C], command: str, arguments: Sequence[str]) -> C:
    """Raises UsageError for anything that is not in the table, or not of its kind."""
    given, file = _from_command_line(kind, command, arguments)
    file = file or os.environ.get("TRAINER_CONFIG")
    tables = _read_toml(file) if file else {}
    shared = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    values, origins = merged([
        ("file", _from_table(shared, kind, file, CONFIGS.values())),
        ("file", _from_table(tables.get(command, {}), kind, file)),
        ("environment", dict(_from_environment(kind))),
        ("flag", given),
    ])  # fmt: skip
    config = kind(**values, origins=origins)
    if isinstance(config, PipelineConfig):
        of_stages = {name: _from_table(rows, CONFIGS[name], file) for name, rows in tables.items() if name in CONFIGS}
        config = dataclasses.replace(config, of_stages=of_stages)
    check(config)
    return config


def merged(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """(values, origins) of layers of which each wins over the ones before. Raises UsageError if one of them gives both
    --steps and --epochs, which say the same thing."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        if layer.keys() >= {"steps", "epochs"}:
            raise UsageError("--steps and --epochs both say how long to train", "give one of them")
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if one in layer:
                values.pop(other, None)
                origins.pop(other, None)
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    values |= {name: os.path.expanduser(values[name]) for name in PATHS if name in values}
    return values, origins


def describe(config: Config) -> str:
    """Every value and where it comes from, one line each."""
    width = max(map(len, config.flags()))
    rows = ((name, getattr(config, name), config.origins.get(name, "default")) for name in config.flags())
    return "\n".join(f"{name:<{width}}  {value!r:<28} {origin}" for name, value, origin in rows)


def check(config: Config) -> None:
    for field in config.flags().values():
        value, wanted = getattr(config, field.name), field.metadata["range"]
        if type(value) in (int, float) and not wanted.holds(value):
            raise UsageError(
                f"--{field.name} is {value}, which is not {wanted.words}", f"leave --{field.name} out, or correct it"
            )
    if config.n_embd % (2 * config.n_head):
        raise UsageError(
            f"--n_embd {config.n_embd} does not give {config.n_head} heads of an even size",
            "make --n_embd a multiple of twice --n_head",
        )
    if not config.project.strip():
        raise UsageError("--project is empty", "leave it out, or give it a name")
    if config.checkpoint_freq and not (config.out or config.resume):
        raise UsageError("--checkpoint_freq needs a folder to write to", "add --out FOLDER")


def _names(field: Field) -> tuple[str, ...]:
    """Every name of a flag, its own first."""
    return (field.name, *field.metadata["also"])


def _type(field: Field) -> Any:
    """``int | None`` -> int, ``tuple[str, ...]`` -> tuple."""
    hint: Any = field.type
    if isinstance(hint, types.UnionType):
        hint, _ = typing.get_args(hint)
    return typing.get_origin(hint) or hint


# -- the command line --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse that raises UsageError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help lists the flags")


class _OneLinePerFlag(argparse.HelpFormatter):
    """Shows each flag under its own name only."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = action.option_strings[0]
        if getattr(action, "is_on", False):
            return name.replace("--", "--no-", 1)  # What a reader may want is the other one.
        return name if action.nargs == 0 else f"{name} {action.metavar}"


def _from_command_line(kind: type[Config], command: str, arguments: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """The flags that were given, and the file."""
    parser = _Parser(
        f"python -m trainer {command}", "%(prog)s [flags]", allow_abbrev=False, formatter_class=_OneLinePerFlag
    )
    fields = kind.flags().values()
    groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(f.metadata["group"] for f in fields)}
    for field in fields:
        _add_flag(groups[field.metadata["group"]], field)
    groups["run"].add_argument("--config", metavar="S", help="TOML file with flags", default=None)
    groups["run"].add_argument(*SHOW_CONFIG, action="store_true", help="only print every value and its origin")
    known, unknown = parser.parse_known_args([*arguments])
    if unknown:
        _raise_unknown("flag", unknown[0], kind, f"python -m trainer {command} --help lists the flags")
    values = vars(known)
    return {name: value for name, value in values.items() if name in kind.flags()}, values["config"]


def _add_flag(group: Any, field: Field) -> None:
    meta, kind = field.metadata, _type(field)
    spellings = dict.fromkeys(form for name in _names(field) for form in _spellings(name))
    also = "".join(f"; also {_spellings(name)[0]}" for name in meta["also"])
    if kind is bool:
        switch = group.add_argument(
            *spellings, dest=field.name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
            help=(meta["off"] or meta["help"]) + also,
        )  # fmt: skip
        switch.is_on = field.default
        return
    default: Any = field.default
    default = LIST_SEPARATOR.join(default) if kind is tuple else default
    read = functools.partial(_allowed, meta=meta) if meta["several"] else _list if kind is tuple else kind
    text = meta["help"] if default in (None, "") else f"{meta['help']} [{default}]"
    group.add_argument(
        *spellings, dest=field.name, type=read, choices=None if meta["several"] else meta["choices"] or None,
        default=argparse.SUPPRESS, metavar={int: "N", float: "X"}.get(kind, "S"), help=text + also,
    )  # fmt: skip


def _allowed(value: Any, meta: Mapping[str, Any]) -> Any:
    """``value``, if the flag allows it: one of its choices, or ``several`` with commas. Raises ArgumentTypeError."""
    words = [word.strip() for word in value.split(",")] if meta["several"] else [value]
    if meta["choices"] and (wrong := [word for word in words if word not in meta["choices"]]):
        raise argparse.ArgumentTypeError(f"invalid choice: {wrong[0]!r} (choose from {_choices(meta)})")
    return ",".join(dict.fromkeys(words)) if meta["several"] else value


def _choices(meta: Mapping[str, Any]) -> str:
    return ", ".join(meta["choices"]) + ("; several with commas" if meta["several"] else "")


def _spellings(name: str) -> tuple[str, ...]:
    return (f"-{name}",) if len(name) == 1 else (f"--{name}", f"--{name.replace('_', '-')}")


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(LIST_SEPARATOR) if part)


def _raise_unknown(what: str, word: str, kind: type[Config], remedy: str) -> NoReturn:
    meant, dashes = word.lstrip("-").split("=")[0].replace("-", "_"), "--" if what == "flag" else ""
    fields = list(kind.flags().values())
    if meant.startswith("no_") and dashes:
        meant, dashes, fields = meant.removeprefix("no_"), "--no-", [f for f in fields if _type(f) is bool]
    close = _closest(meant, [name for field in fields for name in _names(field)])
    raise UsageError(f"unknown {what} {word!r}", f"did you mean {dashes}{close}?" if close else remedy)


def _closest(word: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, [*names], n=1)), None)


# -- the environment and the file --------------------------------------------------------------------------------------


def unknown_variables() -> list[str]:
    """A line for each variable TRAINER_... that no command has a use for: it may be misspelt."""
    fields = (field for kind in CONFIGS.values() for field in kind.flags().values())
    known = {"TRAINER_CONFIG", *(f"{PREFIX}{name.upper()}" for field in fields for name in _names(field))}
    lines = []
    for variable in sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known):
        close = _closest(variable, known)
        lines.append(f"{variable} is not a variable of the trainer" + (f": did you mean {close}?" if close else ""))
    return lines


def _from_environment(kind: type[Config]) -> Iterator[tuple[str, Any]]:
    for field in kind.flags().values():
        own = [f"{PREFIX}{name.upper()}" for name in _names(field) if len(name) > 1]
        for variable in (*own, *field.metadata["env"].split()):
            if os.environ.get(variable):
                yield field.name, _converted(os.environ[variable], field, variable)
                break


def _read_toml(file: str) -> dict[str, Any]:
    """What the file says; a table in it is of the command of that name."""
    try:
        tables = tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "check the path of --config") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not TOML: {error}", "write flags as batch_size = 8") from error
    for name, value in tables.items():
        if isinstance(value, dict) and name not in CONFIGS:
            close = _closest(name, CONFIGS)
            raise UsageError(
                f"{file} has a table [{name}], but there is no such command",
                f"did you mean [{close}]?" if close else f"choose from {', '.join(CONFIGS)}",
            )
    return tables


def _from_table(
    rows: Mapping[str, Any], kind: type[Config], file: str | None, others: Iterable[type[Config]] = ()
) -> dict[str, Any]:
    """The flags in ``rows``. A key that ``kind`` has no use for must be one of ``others``."""
    fields = {name: field for field in kind.flags().values() for name in _names(field)}
    elsewhere = {name for other in others for field in other.flags().values() for name in _names(field)}
    found = {}
    for key, value in rows.items():
        name = key.replace("-", "_")
        if name in fields:
            found[fields[name].name] = _converted(value, fields[name], f"{key} in {file}")
        elif name not in elsewhere:
            _raise_unknown("key", key, kind, "--help lists the flags of a command")
    return found


def _converted(value: Any, field: Field, where: str) -> Any:
    """The value as its flag would have it. Raises UsageError naming ``where``."""
    kind, meta = _type(field), field.metadata
    try:
        made = _as(kind, ",".join(value) if meta["several"] and isinstance(value, list) else value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where} is {value!r}, which is no {kind.__name__}", "mend it, or leave it out") from error
    try:
        return _allowed(made, meta)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{where} is {value!r}", f"choose from {_choices(meta)}") from error


def _as(kind: Any, value: Any) -> Any:
    """A text, or what a file has, as a value of ``kind``. Raises ValueError or TypeError."""
    if kind is tuple:
        return tuple(map(str, value)) if isinstance(value, list) else _list(str(value))
    if kind is bool:
        word = str(value).lower()
        if word not in (*TRUE, *FALSE):
            raise ValueError
        return word in TRUE
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)
