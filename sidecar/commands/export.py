"""``sidecar export``."""

import argparse
import sys
from pathlib import Path

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

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

    config = shared.load(options).config
    with export.open_run(config, options.which) as opened:
        if options.output == "-":
            export.FORMATS[options.format](opened, sys.stdout.buffer, derived=options.derived)
            sys.stdout.buffer.flush()
            return Exit.OK
        try:
            export.write_file(opened, Path(options.output), options.format, derived=options.derived)
        except OSError as error:
            raise UserError(
                f"cannot write {options.output}: {error.strerror}", "choose another file with -o", Exit.NOT_WRITABLE
            ) from None
    return Exit.OK
