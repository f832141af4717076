"""``sidecar top``."""

import argparse
import os
import shutil
import sys
import time
from urllib.parse import quote

import msgspec

from sidecar import live, screen
from sidecar.commands import options as shared
from sidecar.config import Config
from sidecar.errors import Exit, UserError

DESCRIPTION = "Watch the run live in the terminal: loss, speed, MFU, ranks, GPUs, sinks. Ctrl-C ends it."
EXAMPLES = ["sidecar top", "sidecar top --run 20261121-181512-a1b2c3 --every 5"]

CLEAR = "\x1b[H\x1b[J"
LOSSES = ("train/loss", "train/loss_ema")
"""In order of preference; captured scripts log the loss under names of their own, but have the second one."""
POINTS_MAX = 1000
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="an id or a name (default the run last started)")
    parser.add_argument("--every", type=shared.number(float, 0.1), default=1.0, metavar="SECONDS",
                        help="period (default 1)")
    parser.add_argument("--once", action="store_true", help="print one screen and end; so it is without a terminal")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    found = live.require(config)
    run_id = shared.run_id(config, options.run)
    terminal = sys.stdout.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    moving = terminal and not options.once
    try:
        while True:
            size = shutil.get_terminal_size((100, 30))
            try:
                status = live.status(found, config, run_id)
            except live.Unreachable as error:
                cause = "no status" if isinstance(error, live.Busy) else "the sidecar is gone"
                raise UserError(f"{cause}: {error}", "`sidecar runs` lists what there is", Exit.NO_DATA) from None
            losses = loss_curve(found, config, status.get("run_id"), size.columns)
            lines = screen.draw(status, losses, columns=size.columns, rows=size.lines - 1, colour=colour)
            sys.stdout.write((HIDE + CLEAR if moving else "") + "\n".join(lines) + "\n")
            sys.stdout.flush()
            if not moving:
                return Exit.OK
            time.sleep(options.every)
    finally:
        if moving:
            sys.stdout.write(SHOW)
            sys.stdout.flush()


def loss_curve(found: live.Live, config: Config, run_id: str | None, points: int) -> list[float]:
    """The training loss over the whole run, thinned to ``points``; empty when it is not known."""
    if run_id is None:
        return []
    path = f"/api/v1/runs/{quote(run_id, safe='')}/history"
    query = {"names": ",".join(LOSSES), "points": str(min(points, POINTS_MAX))}
    try:
        series = msgspec.json.decode(live.fetch(found.http, path, query=query, token=config.token))["series"]
        values: list[float | None] = next((series[name]["values"] for name in LOSSES if name in series), [])
    except (live.Unreachable, msgspec.DecodeError, KeyError, TypeError):
        return []
    return [value for value in values if value is not None]
