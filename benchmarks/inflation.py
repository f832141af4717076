"""By how much a training step grows when it reports twelve metrics to a live sidecar.

Proves: a step of one millisecond grows by at most 1 %, measured in pairs of blocks (with and without the call, in an
order drawn at random, beside pairs that differ in nothing, which show the noise); and a step of each of the reference
trainer's stages by at most 1 %, measured as benchmarks/stage_inflation.py says. Each figure comes with 95 % bounds;
where the target lies between them the verdict is "undecided".

    python -m benchmarks.inflation                          # 1 ms steps, about half a minute
    python -m benchmarks.inflation --trainer                # the reference trainer's pretraining (needs torch)
    python -m benchmarks.inflation --trainer --stage all    # all five of its stages, at most 4 minutes each
"""

import random
import sys
import time

from benchmarks import common, paired, stage_inflation

SEED = 20261121
WARM_UP_STEPS = 500
TARGET_PERCENT = 1.0


def block(run, first: int, steps: int, rounds: int) -> tuple[float, float]:
    """(wall, CPU) seconds of ``steps`` steps; ``run`` None: the same loop without the call."""
    began, cpu_began = time.perf_counter(), time.thread_time()
    for step in range(first, first + steps):
        common.work(rounds)
        arguments = common.step_arguments(step)
        if run is not None:
            run.step(step, **arguments)
    return time.perf_counter() - began, time.thread_time() - cpu_began


def measure_pairs(run, pairs: int, steps: int) -> dict[str, list[float]]:
    """Ratio of each pair: wall and CPU with / without the call, and of pairs that differ in nothing ("noise")."""
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
        found["wall"].append(wall / plain[0][0])
        found["cpu"].append(cpu / plain[0][1])
        found["noise"].append(plain[1][0] / plain[0][0])
    return found


def report_steps(options) -> None:
    import sidecar as client

    common.print_machine()
    with common.sidecar_alive() as sidecar:
        common.set_priority(options.nice)
        run = client.init("benchmark", endpoint=sidecar.endpoint)
        common.pin(options.pin)
        found = measure_pairs(run, options.pairs, options.steps)
        run.finish(timeout_seconds=5.0)
    print(f"{options.pairs} pairs of blocks of {options.steps} steps of 1 ms, 12 metrics each, seed {SEED}")
    for name, label in (
        ("wall", "step time"),
        ("cpu", "CPU of the stepping thread"),
        ("noise", "pairs without any call"),
    ):
        print(f"growth of {label:28s} {paired.growth(found[name])}")
    paired.print_decision("growth of a 1 ms step", paired.growth(found["wall"]), TARGET_PERCENT)
    common.print_load_after()


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=80, help="pairs of blocks (default 80)")
    parser.add_argument("--steps", type=int, default=125, help="steps in a block (default 125)")
    common.add_placement(parser)
    parser.add_argument("--trainer", action="store_true", help="steps of the reference trainer instead")
    stage_inflation.add_options(parser)
    options = parser.parse_args()
    if options.trainer:
        stage_inflation.report_stages(options)
    else:
        report_steps(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
