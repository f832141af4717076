"""By how much a training step grows when it reports twelve metrics to a live sidecar.

Proves: a step of one millisecond grows by at most 1 %, measured in pairs of blocks (with and without the call, in an
order drawn at random, beside pairs that differ in nothing, which show the noise); and a step of each of the reference
trainer's stages by at most 1 %, measured in pairs of blocks inside one run and in pairs of whole runs, with every call
of the client and with none.

    python -m benchmarks.inflation                          # 1 ms steps, about half a minute
    python -m benchmarks.inflation --trainer                # the reference trainer's pretraining (needs torch)
    python -m benchmarks.inflation --trainer --stage all    # all five of its stages
"""

import contextlib
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import common

SEED = 20261121
WARM_UP_STEPS = 500
TRAINER_BLOCK = 8  # Twice PPO's cycle of drawing replies and learning from them: blocks are alike.
STAGES = ("pretrain", "midtrain", "sft", "dpo", "ppo")


def block(run, first: int, steps: int, rounds: int) -> tuple[float, float]:
    """(wall, CPU) seconds of ``steps`` steps; ``run`` None: the same loop without the call."""
    began, cpu_began = time.perf_counter(), time.thread_time()
    for step in range(first, first + steps):
        common.work(rounds)
        arguments = common.step_arguments(step)
        if run is not None:
            run.step(step, **arguments)
    return time.perf_counter() - began, time.thread_time() - cpu_began


def paired(run, pairs: int, steps: int) -> dict[str, list[float]]:
    """Growth in percent of each pair: wall and CPU with the call, and of pairs that differ in nothing ("noise")."""
    rng, rounds, number = random.Random(SEED), common.rounds_for(), WARM_UP_STEPS
    block(run, 0, WARM_UP_STEPS, rounds)
    found: dict[str, list[float]] = {"wall": [], "cpu": [], "noise": []}
    for _ in range(pairs):
        order = [run, None, None]
        rng.shuffle(order)
        times = [(which, block(which, number + steps * place, steps, rounds)) for place, which in enumerate(order)]
        number += 3 * steps
        ((wall, cpu),) = (seconds for which, seconds in times if which is not None)
        plain = [seconds for which, seconds in times if which is None]
        rng.shuffle(plain)
        found["wall"].append(100 * (wall / plain[0][0] - 1))
        found["cpu"].append(100 * (cpu / plain[0][1] - 1))
        found["noise"].append(100 * (plain[1][0] / plain[0][0] - 1))
    return found


def report_steps(options) -> None:
    import sidecar as client

    common.print_machine()
    with common.sidecar_alive() as sidecar:
        common.favour(options.nice)
        run = client.init("benchmark", endpoint=sidecar.endpoint)
        common.pin(options.pin)
        found = paired(run, options.pairs, options.steps)
        run.finish(timeout_seconds=5.0)
    print(f"{options.pairs} pairs of blocks of {options.steps} steps of 1 ms, 12 metrics each, seed {SEED}")
    for name, label in (
        ("wall", "step time"),
        ("cpu", "CPU of the stepping thread"),
        ("noise", "pairs without any call"),
    ):
        low, high = common.median_bounds(found[name])
        print(
            f"growth of {label:28s} median {common.median(found[name]):+6.2f} %   (95 %: {low:+.2f} .. {high:+.2f} %)"
        )
    common.verdict("growth of a 1 ms step, ratio with / without", 1 + common.median(found["wall"]) / 100, 1.01, "")
    common.print_load_after()


# -- the reference trainer ---------------------------------------------------------------------------------------------


class Timed(NamedTuple):
    silent: bool
    wall: float
    """Seconds by the clock."""
    cpu: float
    """CPU seconds of all the trainer's threads, the client's own among them."""


def trainer_steps(folder: Path, kind: str, arguments: list[str], endpoint: str) -> list[Timed]:
    """One whole run: each step after the first tenth."""
    env = common.environment(SIDECAR_ENDPOINT=endpoint, BENCHMARK_STEPS=str(folder / "steps.json"))
    command = [sys.executable, "-m", "benchmarks.inflation", "--timed-trainer", kind, *arguments]
    done = subprocess.run(command, cwd=common.REPOSITORY, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise SystemExit(f"the trainer failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    noted = json.loads((folder / "steps.json").read_text())
    pairs = list(zip(noted, noted[1:], strict=False))[len(noted) // 10 :]
    # A step lies between two notes; where the kind changes in between it belongs to neither.
    return [Timed(bool(a[0]), b[1] - a[1], b[2] - a[2]) for a, b in pairs if a[0] == b[0]]


def timed_trainer(kind: str, arguments: list[str]) -> int:
    """Run the trainer in this process and note each step: all "loud", all "silent", or "mixed" in blocks.

    In a silent step the calls of the client do nothing: no event, no phase, no consumption.
    """
    import os
    import runpy

    from sidecar.client.run import Run

    noted: list[tuple[bool, float, float]] = []
    rng, silent = random.Random(SEED), [kind == "silent"]
    real = {name: getattr(Run, name) for name in ("step", "phase", "dataset", "log")}

    def step(self: Run, *given: object, **named: object) -> None:
        noted.append((silent[0], time.perf_counter(), time.process_time()))
        if not silent[0]:
            real["step"](self, *given, **named)
        if kind == "mixed" and len(noted) % TRAINER_BLOCK == 0:
            silent[0] = not silent[0] if len(noted) // TRAINER_BLOCK % 2 else rng.random() < 0.5

    def phase(self: Run, *given: object, **named: object) -> object:
        return contextlib.nullcontext() if silent[0] else real["phase"](self, *given, **named)

    def quiet(name: str) -> Callable[..., None]:
        return lambda self, *given, **named: None if silent[0] else real[name](self, *given, **named)

    Run.step, Run.phase = step, phase  # type: ignore[method-assign, assignment]
    Run.dataset, Run.log = quiet("dataset"), quiet("log")  # type: ignore[method-assign]
    sys.argv = ["trainer", *arguments]
    try:
        runpy.run_module("trainer", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code:
            raise
    finally:
        Path(os.environ["BENCHMARK_STEPS"]).write_text(json.dumps(noted))
    return 0


def block_ratios(steps: list[Timed], of_block: Callable[[list[Timed]], float]) -> list[float]:
    """What each loud block comes to, over what the silent block beside it does."""
    groups = [list(group) for _, group in itertools.groupby(steps, lambda step: step.silent)]
    blocks = [(group[0].silent, of_block(group)) for group in groups]
    pairs = zip(blocks[::2], blocks[1::2], strict=False)
    return [dict(pair)[False] / dict(pair)[True] for pair in pairs if pair[0][0] != pair[1][0]]


def typical_wall(steps: list[Timed]) -> float:
    return statistics.median(step.wall for step in steps)


def mean_cpu(steps: list[Timed]) -> float:
    """Not the median: the thread that sends is busy in one step of many."""
    return statistics.fmean(step.cpu for step in steps)


def report_trainer(options) -> None:
    common.print_machine()
    with common.sidecar_alive() as sidecar:
        common.favour(options.nice)
        for stage in STAGES if options.stage == "all" else (options.stage,):
            report_stage(stage, sidecar, options)
    common.print_load_after()


def report_stage(stage: str, sidecar: common.Sidecar, options) -> None:
    arguments = [stage, "--quiet", *options.trainer_arguments.split()]
    mixed = trainer_steps(sidecar.folder, "mixed", arguments, sidecar.endpoint)
    _print_ratios(f"{stage}, blocks in one run", block_ratios(mixed, typical_wall), typical_wall(mixed))
    _print_ratios(f"{stage}, blocks in one run, CPU of all threads", block_ratios(mixed, mean_cpu), mean_cpu(mixed))
    rng, ratios = random.Random(SEED), []
    for _ in range(options.runs):
        medians = {}
        for kind in rng.sample(["loud", "silent"], 2):
            steps = trainer_steps(sidecar.folder, kind, arguments, sidecar.endpoint)
            medians[kind] = typical_wall(steps)
        ratios.append(medians["loud"] / medians["silent"])
    if ratios:
        _print_ratios(f"{stage}, whole runs", ratios, medians["silent"])


def _print_ratios(name: str, ratios: list[float], step_seconds: float) -> None:
    low, high = common.median_bounds(ratios)
    growth = f"growth {100 * (common.median(ratios) - 1):+.2f} %"
    bounds = f"(95 %: {100 * (low - 1):+.2f} .. {100 * (high - 1):+.2f} %)"
    print(f"{name}: {len(ratios)} pairs, a step takes {1e3 * step_seconds:.2f} ms, {growth} {bounds}", flush=True)
    common.verdict(f"reference trainer, step time with / without, {name}", common.median(ratios), 1.01, "")
    if high - low > 0.01:
        print("     the bounds are wider than 1 %: this machine was too busy to decide; add --steps or --runs")


def main() -> int:
    if sys.argv[1:2] == ["--timed-trainer"]:
        return timed_trainer(sys.argv[2], sys.argv[3:])
    parser = common.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of blocks (default 40)")
    parser.add_argument("--steps", type=int, default=250, help="steps in a block (default 250)")
    common.add_placement(parser)
    parser.add_argument("--trainer", action="store_true", help="pairs of whole runs of the reference trainer")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="pretrain", help="with --trainer: of which stage")
    parser.add_argument("--runs", type=int, default=4, help="with --trainer: pairs of whole runs too (default 4)")
    parser.add_argument(
        "--trainer-arguments",
        default="--steps 400 --eval_freq 100000 --generate_freq 100000",
        help="with --trainer: what it is run with",
    )
    options = parser.parse_args()
    if options.trainer:
        report_trainer(options)
    else:
        report_steps(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
