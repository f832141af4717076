"""``sidecar run``."""

import argparse
import os

from sidecar.commands import options as shared

DESCRIPTION = "Start a sidecar, then the training command; its exit code is the command's."
EXAMPLES = [
    "sidecar run -- python train.py --lr 3e-4",
    "sidecar run --sink wandb --name d12 -- torchrun --nproc-per-node 8 train.py",
]
TAKES_COMMAND = True


def add_options(parser: argparse.ArgumentParser) -> None:
    fields = "dir endpoint host port sinks allow project name run_id grace_seconds sample_seconds wandb_mode log_level"
    shared.add(parser, *fields.split())
    parser.add_argument(
        "--keep", dest="set_keep", action="store_const", const=True, help="leave the sidecar running at the end"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no banner, no progress, no card")


def run(options: argparse.Namespace) -> int:
    from sidecar.launch import Launch

    loaded = shared.load(options)
    shared.check_sinks(loaded.config)
    return Launch(loaded, options.command or [], dict(os.environ), quiet=options.quiet).run()
