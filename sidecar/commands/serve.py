"""``sidecar serve``."""

import argparse
import logging
import os
import sys
import threading
import time

from sidecar import banner, live
from sidecar.commands import options as shared
from sidecar.config import Config

READY_SECONDS_MAX = 60.0

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
        "sink_period_steps",
        "allow",
        "names",
        "project",
        "sample_seconds",
        "wandb_mode",
        "log_level",
    )


def run(options: argparse.Namespace) -> int:
    from sidecar.service import Service

    config = shared.load(options).config
    shared.check_sinks(config)
    os.nice(config.nice)  # Before the first thread starts: on Linux it is of this thread and of those that it starts.
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    if "SIDECAR_LAUNCHER_PID" not in os.environ:  # `sidecar run` prints its own banner.
        threading.Thread(target=_say_where, args=(config,), name="banner", daemon=True).start()
    return Service(config).run()


def _say_where(config: Config) -> None:
    """Print the addresses as soon as the service has announced them."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        found = live.read_endpoints(config.data_directory)
        if found is not None and found.pid == os.getpid():
            for line in banner.serving(config, found, token=sys.stderr.isatty()):
                print(f"sidecar: {line}", file=sys.stderr, flush=True)
            return
        time.sleep(0.05)
