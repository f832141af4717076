"""The ``sidecar`` command: finds the subcommand, lets it read its options, runs it, and prints errors as two lines.

Given: argv. Hands on: an exit code.
Never: imports a subcommand that was not asked for, or shows a traceback for something its reader can put right.
"""

import argparse
import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from sidecar import __version__
from sidecar.errors import Exit, UserError

COMMANDS = {
    "run": "start a sidecar, then a training command under it",
    "serve": "the sidecar alone: for a second terminal, a container, another launcher",
    "status": "what the run is doing now",
    "top": "the same, live in the terminal",
    "runs": "the runs in the data directory",
    "export": "every row of a run as JSON lines, CSV or Parquet",
    "sink": "add an outlet to a run, even a finished one; pause, resume, list",
    "sync": "send what outlets have not got yet",
    "privacy": "read again what left the machine, and certify it",
    "viz": "pictures of runs in 3D, as one page that opens offline",
    "compare": "runs side by side; with --gate an exit code for CI",
    "report": "one page about one run, to hand on",
    "selftest": "a short run through every part, each checked",
    "doctor": "check this machine: ports, permissions, memory, GPU, packages, keys",
    "bench": "what run.step costs a training step on this machine",
    "demo": "a synthetic run, to look around without training anything",
    "keys": "make the keys for trainers on other hosts",
    "config": "the settings in force, and where each one comes from",
}
"""Each name is a module of sidecar.commands with DESCRIPTION, EXAMPLES, add_options(parser) and run(options)."""
OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What writing to standard output fails with; errors of files that we opened ourselves name the file."""
PATH_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
)
"""What a path can be that somebody gave us, beside missing."""


class Parser(argparse.ArgumentParser):
    """argparse whose help starts with what the command does, and whose errors are ours."""

    def __init__(self, name: str, description: str, examples: Sequence[str]) -> None:
        super().__init__(
            prog=f"sidecar {name}",
            add_help=False,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100),
        )
        self.about = description
        self.examples = examples
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        examples = "\n".join(f"  {line}" for line in self.examples)
        formatter = self._get_formatter()
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        return f"{self.about}\n\nexamples:\n{examples}\n\n{formatter.format_help()}"

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse exits here; we raise.
        cause = message.replace("unrecognized arguments", "unknown option").removeprefix("argument ")
        raise UserError(f"{self.prog}: {cause}", self._remedy(message))

    def _remedy(self, message: str) -> str:
        known = [option for action in self._actions for option in action.option_strings]
        for word in message.replace(":", " ").split():
            if word.startswith("--") and word not in known and f"SIDECAR_{_field(word).upper()}" in _variables():
                return f"set SIDECAR_{_field(word).upper()}, or {_field(word)} in sidecar.toml: it is no option here"
            close = difflib.get_close_matches(word.split("=")[0], known, n=1) if word.startswith("--") else []
            if close and close[0] != word:
                return f"did you mean {close[0]}? `{self.prog} --help` lists the options"
        return f"`{self.prog} --help` lists the options"


def _field(option: str) -> str:
    return option.split("=")[0].removeprefix("--").replace("-", "_")


def _variables() -> set[str]:
    from sidecar.config import FIELDS

    return {f"SIDECAR_{field.upper()}" for field in FIELDS}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Monitor LLM training from outside the training process.",
            "",
            "examples:",
            "  sidecar run -- python -m trainer pretrain",
            "  sidecar run --sink wandb -- torchrun --nproc-per-node 8 train.py",
            "",
            "commands:",
            *lines,
            "",
            "`sidecar COMMAND --help` explains each; `sidecar --version` says which this is.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code (docs/cli.md lists them)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A locale without UTF-8 has no letters for sparklines and arrows.
    try:
        code = dispatch(arguments)
        sys.stdout.flush()  # What cannot be written is an error here, not a traceback at exit.
        return code
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # The reader (head, less) went away: not an error, and nothing more can be printed.
        _discard_output()
        return 141
    except OSError as error:
        if error.errno not in (OUTPUT_ERRORS if error.filename is None else OUTPUT_ERRORS | PATH_ERRORS):
            raise
        print(_of_disk(error), file=sys.stderr)
        return Exit.NOT_WRITABLE
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sidecar"):
            raise
        print(missing_package(error.name), file=sys.stderr)
        return Exit.MISSING


def _of_disk(error: OSError) -> UserError:
    if error.filename is not None:
        remedy = "correct that path or its permissions, or choose another directory with --dir"
        return UserError(f"cannot use {error.filename}: {error.strerror}", remedy)
    _discard_output()
    return UserError(f"cannot write the output: {error.strerror}", "make room there, or write it elsewhere")


def _open_closed_streams() -> None:
    """Streams that were closed (``2>&-``) lead nowhere instead: else the next file opened, a journal say, would be
    standard error, for us and for the training command."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode)  # noqa: SIM115  # For as long as the process lives.
            if nowhere.fileno() != number:
                os.dup2(nowhere.fileno(), number)
            os.set_inheritable(number, True)
            setattr(sys, name, nowhere)


def _discard_output() -> None:
    """Python writes what is left in the buffer when it exits: nowhere, then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return Exit.OK if arguments else Exit.USAGE
    if arguments[0] in ("-V", "--version"):
        print(f"sidecar {__version__}")
        return Exit.OK
    module = command_module(arguments[0])
    parser = parser_of(arguments[0], module)
    own, command = split_at_dashes(arguments[1:])
    if command is not None and not hasattr(module, "TAKES_COMMAND"):
        parser.error(f"no command is taken here: -- {' '.join(command)}")
    options = parser.parse_intermixed_args(own)  # An option may stand between two names.
    options.command = command
    return int(module.run(options))


def command_module(name: str) -> ModuleType:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `sidecar {close[0]}`? " if close else ""
        raise UserError(f"unknown command {name!r}", f"{hint}`sidecar --help` lists the commands")
    return import_module(f"sidecar.commands.{name}")


def parser_of(name: str, module: ModuleType) -> Parser:
    parser = Parser(name, module.DESCRIPTION, module.EXAMPLES)
    module.add_options(parser)
    return parser


def split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """Our options, and the command after the first ``--`` untouched (None when there is no ``--``)."""
    if "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def missing_package(name: str) -> UserError:
    packages = {"pyarrow": "trainer-sidecar[parquet]", "tensorboard": "trainer-sidecar[tensorboard]"}
    package = packages.get(name.split(".")[0], "trainer-sidecar")
    return UserError(f"the package {name!r} is not installed", f"pip install '{package}'", Exit.MISSING)
