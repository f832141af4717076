"""``sidecar run``."""

import argparse
import os

from sidecar import capture_env, wire
from sidecar.commands import options as shared
from sidecar.errors import UserError

DESCRIPTION = "Start a sidecar, then the training command; its exit code is the command's."
EXAMPLES = [
    "sidecar run -- python train.py --lr 3e-4",
    "sidecar run --sink wandb --name d12 -- torchrun --nproc-per-node 8 train.py",
]
TAKES_COMMAND = True
RUN_ID_BYTES_MAX = wire.NAME_BYTES_MAX - 8  # Further runs of the command are ID-2, ID-3 and so on.


def add_options(parser: argparse.ArgumentParser) -> None:
    fields = "dir endpoint host port sinks sink_period_steps allow names project name run_id grace_seconds"
    shared.add(parser, *fields.split(), "sample_seconds", "wandb_mode", "log_level")
    parser.add_argument(
        "--keep", dest="set_keep", action="store_const", const=True, help="leave the sidecar running at the end"
    )
    parser.add_argument(
        "--capture", metavar="NAMES", help="capture calls of an unchanged script: wandb[+], swanlab, tensorboard, torch"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no banner, no progress, no card")


def run(options: argparse.Namespace) -> int:
    from sidecar import remote
    from sidecar.launch import Launch

    loaded = shared.load(options)
    shared.check_sinks(loaded.config)
    if len((loaded.config.run_id or "").encode(errors="replace")) > RUN_ID_BYTES_MAX:
        raise UserError(f"the run id is longer than {RUN_ID_BYTES_MAX} bytes", "choose a shorter one with --run-id")
    command, environ = options.command or [], dict(os.environ)
    capture = _capture(options, command, environ)
    if remote.is_remote(loaded.config.endpoint):
        return remote.run(loaded, command, environ, quiet=options.quiet, capture=capture)
    return Launch(loaded, command, environ, quiet=options.quiet, capture=capture).run()


def _capture(options: argparse.Namespace, command: list[str], environ: dict[str, str]) -> dict[str, str]:
    """Variables for the command that make its libraries' calls arrive here. Raises UserError."""
    names = (options.capture if options.capture is not None else environ.get("SIDECAR_CAPTURE", "")).split(",")
    try:
        found = capture_env.capture_environment(names, environ)
    except capture_env.UnknownCapture as error:
        raise UserError(str(error), "for instance --capture wandb,torch") from None
    if found and (flag := capture_env.isolated(command)):
        raise UserError(
            f"python {flag} ignores PYTHONPATH, so nothing of it can be captured", f"drop {flag}, or --capture"
        )
    return found
