"""``sidecar config show``."""

import argparse
import json

from sidecar import config
from sidecar.commands import options as shared

DESCRIPTION = "Show the settings in force, and where each one comes from. Secrets are masked."
EXAMPLES = ["sidecar config show", "SIDECAR_PORT=0 sidecar config show --json"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["show"], help="the one thing there is")
    parser.add_argument("--json", action="store_true", help="as a list of {key, value, origin}")
    shared.add(parser, "dir", "endpoint", "host", "port", "sinks")


def run(options: argparse.Namespace) -> int:
    loaded = shared.load(options)
    if options.json:
        rows = [{"key": key, "value": _value(loaded, key), "origin": origin} for key, _, origin in loaded.shown()]
        print(json.dumps(rows, indent=2))
        return 0
    for key, value, origin in loaded.shown():
        print(f"{key:<20} {value:<44} {origin}")
    return 0


def _value(loaded: config.Loaded, key: str) -> object:
    value = getattr(loaded.config, key)
    return "***" if key in config.SECRETS and value is not None else value
