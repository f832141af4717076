"""``sidecar keys``."""

import argparse
import re

from sidecar.commands import options as shared
from sidecar.errors import Exit, UserError

DESCRIPTION = "Make the keys that let a trainer on another host send its events here, encrypted."
EXAMPLES = ["sidecar keys", "sidecar keys --trainer node-7"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trainer", metavar="NAME", default="trainer", help="whose key (default: trainer)")
    shared.add(parser, "dir")


def run(options: argparse.Namespace) -> int:
    from sidecar.curve import create_keys

    if not NAME.fullmatch(options.trainer):
        raise UserError(f"{options.trainer!r} cannot be a file name of its own", "use letters, digits, . _ and -")
    server_key, secret = create_keys(shared.load(options).config.data_directory / "keys", options.trainer)
    print(f"sidecar:  sidecar serve --endpoint tcp://ADDRESS:PORT    (listens to {options.trainer} and others listed)")
    print(f"trainer:  copy {secret} to its host, mode 600, and set")
    print("          export SIDECAR_ENDPOINT=tcp://ADDRESS:PORT")
    print(f"          export SIDECAR_SERVER_KEY='{server_key}'")
    print(f"          export SIDECAR_CLIENT_KEY=/path/to/{secret.name}")
    return Exit.OK
