"""``sidecar top``."""

import argparse
import os
import shutil
import sys
import time

from sidecar import live, screen
from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "Watch the run live in the terminal: loss, speed, MFU, ranks, GPUs, sinks. Ctrl-C ends it."
EXAMPLES = ["sidecar top", "sidecar top --run 20261121-181512-a1b2c3 --every 5"]

CLEAR = "\x1b[H\x1b[J"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="id of a run (default the one last started)")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="period (default 1)")
    parser.add_argument("--once", action="store_true", help="print one screen and end; so it is without a terminal")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    found = live.require(config)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    losses: list[float] = []
    moving = sys.stdout.isatty() and not options.once
    try:
        while True:
            try:
                status = live.status(found, config, options.run)
            except live.Unreachable as error:
                remedy = "`sidecar runs` lists what it left"
                raise UserError(f"the sidecar is gone: {error}", remedy, Exit.NO_DATA) from None
            if status.get("loss") is not None:
                losses = [*losses[-199:], float(status["loss"])]
            size = shutil.get_terminal_size((100, 30))
            lines = screen.draw(status, losses, columns=size.columns, rows=size.lines - 1, colour=colour)
            sys.stdout.write((HIDE + CLEAR if moving else "") + "\n".join(lines) + "\n")
            sys.stdout.flush()
            if not moving:
                return Exit.OK
            time.sleep(max(options.every, 0.1))
    finally:
        if moving:
            sys.stdout.write(SHOW)
            sys.stdout.flush()
