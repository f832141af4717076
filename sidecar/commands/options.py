"""Options that several commands share, all of them fields of the configuration.

Given: a parser, parsed options. Hands on: the merged configuration.
Never: holds a default: those are in sidecar.config.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

from sidecar import config
from sidecar.errors import UserError

NUMBER_MAX = 1e9
"""Upper limit of numeric options; time.sleep raises OverflowError for very large values."""
HELP = {
    "dir": ("PATH", "where journals live (default ~/.local/share/trainer-sidecar)"),
    "endpoint": ("URL", "where events go (default ipc in a private directory)"),
    "host": ("ADDRESS", "address of the HTTP server (default 127.0.0.1; others need a token)"),
    "port": ("N", "its port (default 9797, then the next free one; 0: any)"),
    "sinks": ("NAMES", "outlets, e.g. wandb,tensorboard (default none)"),
    "allow_sinks": ("NAMES", "outlets a trainer may ask for (default any; none)"),
    "allow": ("WORDS", "what else may leave the machine: text,histograms (default numbers only)"),
    "sink_period_steps": ("STEPS", "send every so many steps (default 1), or preset: 100, 10, 50 by stage"),
    "names": ("PROFILE", "other spellings of metric names as well: s2 or s3 (docs/sinks.md)"),
    "project": ("NAME", "project of a run that names none"),
    "name": ("NAME", "name of the run"),
    "run_id": ("ID", "id of the run (default date, time, six random digits)"),
    "grace_seconds": ("SECONDS", "wait this long at the end for sinks and a last scrape (default 5)"),
    "sample_seconds": ("SECONDS", "period of hardware readings (default 1)"),
    "log_level": ("LEVEL", "debug, info, warning or error (default warning)"),
    "wandb_mode": ("MODE", "online, offline or disabled (default: online with a key)"),
}


def add(parser: argparse.ArgumentParser, *fields: str) -> None:
    for field in fields:
        metavar, text = HELP[field]
        parser.add_argument(config.option_of(field), dest=f"set_{field}", metavar=metavar, help=text)
    parser.add_argument("--config", metavar="FILE", help="settings file (default ./sidecar.toml if there is one)")


def load(options: argparse.Namespace) -> config.Loaded:
    """Options, environment and file merged. Raises UserError."""
    given = {name.removeprefix("set_"): value for name, value in vars(options).items() if name.startswith("set_")}
    return config.read(given, os.environ, options.config)


def number(kind: type[int] | type[float], least: float) -> Callable[[str], Any]:
    """A type for argparse: numbers from ``least`` to NUMBER_MAX; not NaN."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= NUMBER_MAX:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of {least:g} or more")
        return value

    return convert


def run_id(settings: config.Config, word: str | None) -> str | None:
    """The id of the run with this id or name; None (the run last started) for None or latest. Raises UserError."""
    from sidecar.sinks import late
    from sidecar.store import Store

    if word in (None, "latest"):
        return None
    return late.run_of(Store(settings.data_directory), str(word)).run_id


def check_sinks(settings: config.Config) -> None:
    """Raises UserError when an outlet, or a word of --allow, does not exist: before anything is started."""
    from sidecar.sinks import privacy, registry

    try:
        registry.names(settings.sinks)
        registry.names(settings.allow_sinks or ())
    except registry.UnknownSink as error:
        raise UserError(error.cause, error.remedy) from None
    try:
        privacy.allow_words(settings.allow)
    except ValueError as error:
        cause, _, remedy = str(error).partition("; ")
        raise UserError(cause, remedy) from None
