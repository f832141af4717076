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
PATIENCE_SECONDS = 10.0
"""How long nobody may be there before this ends: a sidecar that is started again takes a few seconds."""
ANSWER_SECONDS = 2.0
"""How long the screen waits for an answer before it says that there is none."""
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="an id or a name (default the run last started)")
    parser.add_argument("--every", type=shared.number(float, 0.1), default=1.0, metavar="SECONDS",
                        help="period (default 1)")
    parser.add_argument("--once", action="store_true", help="print one screen and end; so it is without a terminal")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    watch = Watch(config, live.require(config), shared.run_id(config, options.run))
    terminal = sys.stdout.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    moving = terminal and not options.once
    try:
        while True:
            size = shutil.get_terminal_size((100, 30))
            watch.look(size.columns)
            if moving or not watch.note:
                lines = screen.draw(watch.status, watch.losses, columns=size.columns, rows=size.lines - 1,
                                    colour=colour, note=watch.note)
                sys.stdout.write((HIDE + CLEAR if moving else "") + "\n".join(lines) + "\n")
                sys.stdout.flush()
            if not moving and not watch.note:
                return Exit.OK
            if not moving and watch.age_seconds >= PATIENCE_SECONDS:
                raise UserError(f"no status: {watch.note}", "try again later", Exit.NO_DATA)
            time.sleep(options.every)
    finally:
        if moving:
            sys.stdout.write(SHOW)
            sys.stdout.flush()


class Watch:
    """What the sidecar said last, and whether it still says anything."""

    def __init__(self, config: Config, found: live.Live, run_id: str | None) -> None:
        self.status: screen.Status = {"verdict": "The sidecar has not answered yet."}
        self.losses: list[float] = []
        self.note = ""
        """Why there is nothing newer; empty while it answers."""
        self._config, self._found, self._run_id = config, found, run_id
        self._answered = time.monotonic()
        self._gone_since: float | None = None

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._answered

    def look(self, columns: int) -> None:
        """Ask again. Raises UserError when the answer is no, or when nobody has been there for a while."""
        before = self.status.get("run_id")
        try:
            self.status = live.status(self._found, self._config, self._run_id, ANSWER_SECONDS)
        except live.Refused as error:
            raise UserError(f"no status: {error}", "`sidecar runs` lists what there is", Exit.NO_DATA) from None
        except live.Unreachable as error:
            self._no_answer(error)
            return
        self._answered, self._gone_since, self.note = time.monotonic(), None, ""
        run_id = self.status.get("run_id")
        losses = loss_curve(self._found, self._config, run_id, columns)
        if losses is not None or run_id != before:
            self.losses = losses or []

    def _no_answer(self, error: live.Unreachable) -> None:
        now, age = time.monotonic(), f"what is shown is {self.age_seconds:.0f} s old"
        if isinstance(error, live.Slow | live.Busy) and live.is_alive(self._found.pid):
            self._gone_since, self.note = None, f"the sidecar answers slowly, {age} ({error})"
            return
        self._gone_since = self._gone_since or now
        if now - self._gone_since >= PATIENCE_SECONDS:
            raise UserError(f"the sidecar is gone: {error}", "`sidecar runs` lists what it left", Exit.NO_DATA)
        self.note = f"the sidecar is gone or being started again, {age} ({error})"
        self._found = live.read_endpoints(self._config.data_directory) or self._found  # It has a new port then.


def loss_curve(found: live.Live, config: Config, run_id: str | None, points: int) -> list[float] | None:
    """The training loss over the whole run, thinned to ``points``; empty when there is none, None without an answer."""
    if run_id is None:
        return []
    path = f"/api/v1/runs/{quote(run_id, safe='')}/history"
    query = {"names": ",".join(LOSSES), "points": str(min(points, POINTS_MAX))}
    try:
        answer = live.fetch(found.http, path, query=query, token=config.token, timeout_seconds=ANSWER_SECONDS)
    except live.Unreachable:
        return None
    try:
        series = msgspec.json.decode(answer)["series"]
        values: list[float | None] = next((series[name]["values"] for name in LOSSES if name in series), [])
    except (msgspec.DecodeError, KeyError, TypeError):
        return []
    return [value for value in values if value is not None]
