"""``sidecar status``."""

import argparse
import sys
import time

from sidecar import live
from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "Say what the run is doing now: one sentence first, then the numbers."
EXAMPLES = ["sidecar status", "sidecar status --json --run latest"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", help="an id or a name (default the run last started)")
    parser.add_argument("--json", action="store_true", help="the JSON of /status, for programs")
    parser.add_argument("--watch", action="store_true", help="print again every two seconds until Ctrl-C")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    config = shared.load(options).config
    found = live.require(config)
    run_id = shared.run_id(config, options.run)
    query = ({} if options.json else {"format": "text"}) | ({"run": run_id} if run_id else {})
    while True:
        try:
            body = live.fetch(found.http, "/status", query=query, token=config.token, timeout_seconds=5)
        except live.Unreachable as error:
            busy = isinstance(error, live.Slow | live.Busy)
            remedy = "it is busy, or stopped: try again" if busy else "`sidecar runs` lists the runs there are"
            raise UserError(f"no status: {error}", remedy, Exit.NO_DATA) from None
        sys.stdout.write(body.decode().rstrip("\n") + "\n")
        sys.stdout.flush()
        if not options.watch:
            return Exit.OK
        time.sleep(2)
        print()
        found = live.read_endpoints(config.data_directory) or found  # It has a new port when it was started again.
