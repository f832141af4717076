"""``sidecar bench``."""

import argparse
import json

from sidecar.commands.options import number
from sidecar.errors import Exit
from sidecar.growth import PAIRS_MIN

DESCRIPTION = "Measure on this machine by how much run.step lengthens a training step: in pairs, with and without."
EXAMPLES = ["sidecar bench overhead", "sidecar bench overhead --step-ms 5 --pairs 60"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["overhead"], metavar="overhead", help="the cost of run.step in a step")
    parser.add_argument("--step-ms", type=number(float, 0.01), default=1.0, metavar="MS",
                        help="work in a step (default 1)")
    parser.add_argument("--pairs", type=number(int, PAIRS_MIN), default=30, metavar="N",
                        help="pairs of blocks (default 30)")
    parser.add_argument("--steps", type=number(int, 1), default=100, metavar="N", help="steps in a block (default 100)")
    parser.add_argument("--json", action="store_true", help="as an object, for programs")


def run(options: argparse.Namespace) -> int:
    import msgspec

    from sidecar import overhead

    found = overhead.measure(options.step_ms / 1000, pairs=options.pairs, steps=options.steps)
    if options.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        print("\n".join(overhead.report(found)))
    return Exit.OK
