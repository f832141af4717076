"""``sidecar config show``."""

import argparse
import json

from sidecar.commands import options as shared

DESCRIPTION = "Show the settings in force, and where each one comes from. Secrets are masked."
EXAMPLES = ["sidecar config show", "SIDECAR_PORT=0 sidecar config show --json"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["show"], metavar="show", help="the one thing there is")
    parser.add_argument("--json", action="store_true", help="as a list of {key, value, origin}")
    shared.add(parser, "dir", "endpoint", "host", "port", "sinks")


def run(options: argparse.Namespace) -> int:
    loaded = shared.load(options)
    if options.json:
        shown = loaded.config.shown
        rows = [{"key": key, "value": shown(key), "origin": origin} for key, origin in loaded.origins.items()]
        print(json.dumps(rows, indent=2))
        return 0
    for key, value, origin in loaded.shown():
        print(f"{key:<20} {value:<44} {origin}")
    return 0
