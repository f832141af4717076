"""``sidecar report``."""

import argparse
from pathlib import Path

from sidecar.atomic_file import open_atomic
from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "One page about one run, to hand on: verdict, curves, speed, where the time went, configuration."
EXAMPLES = ["sidecar report latest", "sidecar report latest -o report.html", "sidecar report d12 -o report.md"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", metavar="RUN", help="an id, a name (its newest run), latest, or a file")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path,
                        help="write HTML (.html) or Markdown (.md); without it a card is printed")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    from sidecar.charts.load import load_each
    from sidecar.charts.report import Report

    output = options.output
    if output is not None and output.suffix not in (".html", ".htm", ".md"):
        raise UserError(f"cannot tell from its name what {output} is to hold", "end the name in .html or .md")
    (loaded,) = load_each(shared.load(options).config.data_directory, [options.which])
    report = Report(loaded)
    if output is None:
        print("\n".join(report.lines()))
        return Exit.OK
    text = report.markdown() if output.suffix == ".md" else report.html()
    try:
        with open_atomic(output) as out:
            out.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}", "choose another file with -o",
                        Exit.NOT_WRITABLE) from None
    print(output)
    return Exit.OK
