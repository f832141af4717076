"""What ``wandb.log`` of twelve scalars costs a script: captured, and by real wandb offline, in the same run.

Proves: with a live sidecar and one call per millisecond of work, a captured call takes at most 10 us (p50), at least 20
times less than real wandb offline. Each kind runs the same script in a process of its own, in alternating rounds.

    python -m benchmarks.capture_cost
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns

from benchmarks import common

WARM_UP_CALLS = 200
BOUND_US, BOUND_RATIO = 10.0, 20.0
KINDS = {"captured": "wandb", "captured, step=": "wandb", "wandb offline": "", "wandb offline, step=": ""}


def calls(count: int, *, with_step: bool) -> list[int]:
    """Nanoseconds of each call, in this process, with whatever answers to the name wandb."""
    import wandb

    rounds = common.rounds_for()
    wandb.init(project="benchmark")
    found = []
    for step in range(WARM_UP_CALLS + count):
        metrics = common.twelve_metrics(step)
        common.work(rounds)
        began = perf_counter_ns()
        if with_step:
            wandb.log(metrics, step=step)
        else:
            wandb.log(metrics)
        found.append(perf_counter_ns() - began)
    wandb.finish()
    return found[WARM_UP_CALLS:]


def child(kind: str, count: int, endpoint: str, folder: str) -> list[int]:
    from sidecar.capture_env import capture_environment

    environ = common.environment(SIDECAR_ENDPOINT=endpoint, WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=folder)
    environ.update(capture_environment([KINDS[kind]] if KINDS[kind] else [], environ))
    environ["PYTHONPATH"] = environ["PYTHONPATH"] + ":" + str(common.REPOSITORY)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--child", kind, "--calls", str(count)],
        env=environ, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=600, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def report(count: int, turns: int) -> None:
    common.print_machine()
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    with common.sidecar_alive() as sidecar, tempfile.TemporaryDirectory() as folder:
        for _ in range(turns):
            for kind in KINDS:
                found[kind] += child(kind, count, sidecar.endpoint, folder)
    print(f"{count * turns} calls of wandb.log with 12 scalars each, one per millisecond of work")
    for kind, durations in found.items():
        print(f"{kind:24s}{common.microseconds(durations)}")
    p50 = {kind: common.percentile(durations, 0.5) / 1e3 for kind, durations in found.items()}
    common.verdict("captured wandb.log p50", p50["captured"], BOUND_US, "us")
    common.verdict("captured wandb.log(step=) p50", p50["captured, step="], BOUND_US, "us")
    common.verdict("real / captured, p50", p50["wandb offline"] / p50["captured"], BOUND_RATIO, "x", at_least=True)
    common.print_load_after()


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind in each turn (default 1000)")
    parser.add_argument("--turns", type=int, default=2, help="how often the kinds take turns (default 2)")
    parser.add_argument("--child", help=common.argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(calls(options.calls, with_step="step=" in options.child)))
    else:
        report(options.calls, options.turns)


if __name__ == "__main__":
    main()
