"""``sidecar serve``."""

import argparse
import logging

from sidecar.commands import options as shared

DESCRIPTION = "Run the sidecar alone, until SIGTERM or Ctrl-C. Trainers find it by its endpoint."
EXAMPLES = ["sidecar serve --sink wandb", "sidecar serve --dir /data/runs --port 0"]


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add(
        parser,
        "dir",
        "endpoint",
        "host",
        "port",
        "sinks",
        "allow_sinks",
        "allow",
        "project",
        "sample_seconds",
        "wandb_mode",
        "log_level",
    )


def run(options: argparse.Namespace) -> int:
    from sidecar.service import Service

    config = shared.load(options).config
    shared.check_sinks(config)
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    return Service(config).run()
