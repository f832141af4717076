"""``sidecar runs``."""

import argparse
import json
import time
from typing import TYPE_CHECKING

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

if TYPE_CHECKING:
    from sidecar.store import RunEntry

DESCRIPTION = "List the runs in the data directory, the one last started first."
EXAMPLES = ["sidecar runs", "sidecar runs --json --project nanochat"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a list of objects, for programs")
    parser.add_argument("--project", metavar="NAME", help="only this project's")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    from sidecar.store import Store

    config = shared.load(options).config
    found = [run for run in Store(config.data_directory).runs() if options.project in (None, run.project)]
    if options.json:
        fields = ("run_id", "project", "name", "stage", "state", "last_step")
        print(json.dumps([{field: getattr(run, field) for field in fields} for run in found], indent=2))
        return Exit.OK
    if not found:
        of_project = f" of project {options.project!r}" if options.project else ""
        raise UserError(f"no runs{of_project} in {config.dir}", "name another directory with --dir, or look around "
                        "with `sidecar demo`", Exit.NO_DATA)
    lines = [["RUN", "PROJECT", "NAME", "STAGE", "STATE", "STEP", "STARTED (UTC)"], *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return Exit.OK


def _cells(run: "RunEntry") -> list[str]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.started_ns / 1e9)) if run.started_ns else ""
    values = (run.run_id, run.project, run.name, run.stage, run.state, run.last_step, started)
    return ["-" if value in (None, "") else printable(str(value)) for value in values]


def printable(text: str) -> str:
    """Names come from trainers: control characters in them must not reach the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:60]
