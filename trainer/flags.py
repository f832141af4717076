"""From words to a Config: command line > environment > file > default, each value knowing where it came from.

    TRAINER_BATCH_SIZE=8 python -m trainer sft --config my.toml --epochs 1

Given: the words after the command's name. Hands on: one frozen Config.
Never: guesses at a misspelt flag or key. Nothing else in the trainer reads the environment for settings.

Every flag has a variable TRAINER_<FLAG>; customary ones (WANDB_PROJECT, EVAL_FREQ ...) count, too.
A file is TOML: flags at the top hold for every command, those under [sft] for that one.
"""

import argparse
import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trainer.config import Config
from trainer.errors import UsageError

C = TypeVar("C", bound=Config)
TRUE, FALSE = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
LISTS = "|"


def parse(kind: type[C], command: str, arguments: Sequence[str]) -> C:
    """Raises UsageError for anything that is not in the table, or not of its kind."""
    hints = typing.get_type_hints(kind)
    fields = kind.flags()
    given, config_file = _given(kind, command, arguments, fields, hints)
    config_file = config_file or os.environ.get("TRAINER_CONFIG")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = (
        ("file", _from_file(config_file, kind, command, fields, hints) if config_file else {}),
        ("environment", dict(_from_environment(fields, hints))),
        ("flag", given),
    )
    for origin, layer in layers:
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    config = kind(**values, origins=origins)
    check(config)
    return config


def describe(config: Config) -> str:
    """Every value and where it comes from, one line each."""
    names = list(config.flags())
    width = max(map(len, names))
    values = {name: getattr(config, name) for name in names}
    return "\n".join(f"{n:<{width}}  {values[n]!r:<28} {config.origins.get(n, 'default')}" for n in names)


def check(config: Config) -> None:
    for field in config.flags().values():
        value, wanted = getattr(config, field.name), field.metadata["range"]
        if type(value) in (int, float) and value not in wanted:
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
    if config.checkpoint_freq and not config.out:
        raise UsageError("--checkpoint_freq needs a folder to write to", "add --out FOLDER")


# -- the command line --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse that raises UsageError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help lists the flags")


def _given(
    kind: type[Config], command: str, arguments: Sequence[str], fields: dict[str, Any], hints: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The flags that were given, and the file."""
    parser = _Parser(prog=f"python -m trainer {command}", allow_abbrev=False, formatter_class=_help_format)
    groups: dict[str, Any] = {}
    for field in fields.values():
        name = field.metadata["group"]
        groups[name] = groups.get(name) or parser.add_argument_group(name)
        _add_flag(groups[name], field, hints[field.name])
    groups["run"].add_argument("--config", metavar="S", help="TOML file with flags", default=None)
    known, unknown = parser.parse_known_args([*arguments])
    if unknown:
        _refuse("flag", unknown[0], kind, f"python -m trainer {command} --help lists the flags")
    values = vars(known)
    return {name: value for name, value in values.items() if name in fields}, values["config"]


def _add_flag(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    meta = field.metadata
    spellings = dict.fromkeys(form for name in (field.name, *meta["also"]) for form in _spellings(name))
    kind = _plain_type(hint)
    if kind is bool:
        group.add_argument(
            *spellings, dest=field.name, action=argparse.BooleanOptionalAction if field.default else "store_true",
            default=argparse.SUPPRESS, help=meta["off"] or meta["help"],
        )  # fmt: skip
        return
    text = meta["help"] if field.default in (None, ()) else f"{meta['help']} [{_shown(field.default)}]"
    text += "".join(f"; also --{name}" for name in meta["also"])
    group.add_argument(
        *spellings, dest=field.name, type=_reader(kind, meta), default=argparse.SUPPRESS,
        choices=None if meta["several"] else meta["choices"] or None,
        metavar={int: "N", float: "X"}.get(kind, "S"), help=text,
    )  # fmt: skip


def _reader(kind: Any, meta: Mapping[str, Any]) -> Callable[[str], Any]:
    """What makes a value of the word behind the flag."""
    if not meta["several"]:
        return _list if kind is tuple else kind

    def read(text: str) -> str:
        try:
            return _several(text, meta["choices"])
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _several(text: str, choices: Sequence[str]) -> str:
    """Words of ``choices`` with commas between them. Raises ValueError."""
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if word not in choices]:
        raise ValueError(f"invalid choice: {wrong[0]!r} (choose from {', '.join(choices)}; several with commas)")
    return ",".join(dict.fromkeys(words))


def _shown(value: Any) -> str:
    return LISTS.join(value) if isinstance(value, tuple) else str(value)


def _spellings(name: str) -> tuple[str, ...]:
    return (f"-{name}",) if len(name) == 1 else (f"--{name}", f"--{name.replace('_', '-')}")


def _plain_type(hint: Any) -> Any:
    """``int | None`` -> int, ``tuple[str, ...]`` -> tuple."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return typing.get_origin(hint) or hint


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(LISTS) if part)


def _help_format(prog: str) -> argparse.HelpFormatter:
    return _OneLinePerFlag(prog, max_help_position=30, width=110)


class _OneLinePerFlag(argparse.HelpFormatter):
    """Shows each flag under its own name only, and no usage paragraph that repeats them all."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = action.option_strings[0]
        if isinstance(action, argparse.BooleanOptionalAction):
            return name.replace("--", "--no-", 1)  # It is on: what a reader may want is the other one.
        return name if action.nargs == 0 else f"{name} {action.metavar}"

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        super().add_usage(f"{self._prog} [flags]", actions, groups, prefix)


def _refuse(what: str, word: str, kind: type[Config], remedy: str) -> NoReturn:
    names = [name for field in kind.flags().values() for name in (field.name, *field.metadata["also"])]
    close = difflib.get_close_matches(word.lstrip("-").split("=")[0].replace("-", "_"), names, n=1)
    dashes = "--" if what == "flag" else ""
    raise UsageError(f"unknown {what} {word!r}", f"did you mean {dashes}{close[0]}?" if close else remedy)


# -- the environment and the file --------------------------------------------------------------------------------------


def _from_environment(fields: dict[str, Any], hints: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, field in fields.items():
        for variable in (f"TRAINER_{name.upper()}", *field.metadata["env"].split()):
            if variable and os.environ.get(variable):
                yield name, _converted(os.environ[variable], field, hints[name], variable)
                break


def _from_file(
    file: str, kind: type[Config], command: str, fields: dict[str, Any], hints: dict[str, Any]
) -> dict[str, Any]:
    try:
        tables = tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "check the path of --config") from error
    except ValueError as error:
        raise UsageError(f"{file} is not TOML: {error}", "write flags as batch_size = 8") from error
    rows = {key: value for key, value in tables.items() if not isinstance(value, dict)} | tables.get(command, {})
    known = {spelling: name for name, field in fields.items() for spelling in (name, *field.metadata["also"])}
    found = {}
    for key, value in rows.items():
        name = known.get(key.replace("-", "_"))
        if name is None and key.replace("-", "_") in kind.unused:
            continue  # The file holds for other commands, too.
        if name is None:
            _refuse("key", key, kind, f"python -m trainer {command} --help lists the flags")
        found[name] = _converted(value, fields[name], hints[name], f"{key} in {file}")
    return found


def _converted(value: Any, field: dataclasses.Field[Any], hint: Any, where: str) -> Any:
    """The value as its flag would have it. Raises UsageError naming ``where``."""
    kind = _plain_type(hint)
    try:
        if kind is tuple:
            return tuple(map(str, value)) if isinstance(value, list) else _list(str(value))
        if kind is bool:
            word = str(value).lower()
            if word not in (*TRUE, *FALSE):
                raise ValueError
            return word in TRUE
        made = kind(",".join(value) if field.metadata["several"] and isinstance(value, list) else value)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where} is {value!r}, which is no {kind.__name__}", "mend it, or leave it out") from error
    choices = field.metadata["choices"]
    remedy = f"choose from {', '.join(choices)}"
    if field.metadata["several"]:
        try:
            return _several(made, choices)
        except ValueError as error:
            raise UsageError(f"{where} is {value!r}", f"{remedy}; several with commas") from error
    if choices and made not in choices:
        raise UsageError(f"{where} is {value!r}", remedy)
    return made
