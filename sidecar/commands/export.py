"""``sidecar export``."""

import argparse
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

if TYPE_CHECKING:
    from sidecar.export import OpenRun

DESCRIPTION = "Write every row of a run, in the order it was emitted. The run may still be going on."
EXAMPLES = [
    "sidecar export latest --format jsonl -o -",
    "sidecar export d12 --format parquet -o d12.parquet --derived",
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="RUN", help="an id, a name (its newest run), or latest")
    parser.add_argument("--format", choices=["jsonl", "csv", "parquet"], default="jsonl", help="(default jsonl)")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="where to; - is standard output (default)")
    parser.add_argument("--derived", action="store_true", help="also what the sidecar computed and measured")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    from sidecar import export
    from sidecar.damage import damaged_text

    config = shared.load(options).config
    try:
        with export.open_run(config, options.which) as opened:
            _write(opened, options)
            if opened.damaged_rows:
                print(f"warning: {damaged_text(opened.damaged_rows)} ({opened.entry.path})", file=sys.stderr)
    except sqlite3.Error as error:
        raise UserError(
            f"the journal of {options.which!r} is damaged, or cannot be read: {error}",
            "look for a copy of the file, or use what an outlet was given of this run",
            Exit.NO_DATA,
        ) from None
    return Exit.OK


def _write(opened: "OpenRun", options: argparse.Namespace) -> None:
    from sidecar import export

    if options.output == "-":
        export.FORMATS[options.format](opened, sys.stdout.buffer, derived=options.derived)
        sys.stdout.buffer.flush()
        return
    try:
        export.write_file(opened, Path(options.output), options.format, derived=options.derived)
    except OSError as error:
        raise UserError(
            f"cannot write {options.output}: {error.strerror}", "choose another file with -o", Exit.NOT_WRITABLE
        ) from None
