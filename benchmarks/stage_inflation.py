"""By how much a step of the reference trainer grows when it is monitored, for each of its stages.

Given: a stage, and how many minutes it may take. Hands on: lines with the growth, its 95 % bounds and a verdict.
Never: says that a target is met or missed while the bounds lie on both sides of it.

*Alternating* runs of the trainer switch all monitoring on and off, block by block: the client's calls (step, phase,
dataset, log), its pump, and the sidecar itself, which is stopped (SIGSTOP) where nothing is monitored. A block is a
second: short, because the machine changes its speed all the time; longer than the periods of what the sidecar does, all
of which it does at once when it goes on, so that a monitored block holds rather more of it than a second has.
So far as the other runs foretell how long a step takes (its batch may be longer), that is divided out. Neighbouring
blocks are compared as benchmarks/paired.py says. Runs are added until the bounds are narrow or the time is up; the
growth itself has no say in when to stop, which would bias it.

What a step costs by being monitored is much the same in all stages: the same calls, the same sidecar. So their pairs
taken together say more than those of each.

A *whole* run with all calls shows how much CPU time the sidecar really takes. If the monitored blocks held less of it,
the rest is added to the growth, as though the step had waited for all of it.
"""

import itertools
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common, paired

STAGES = ("pretrain", "midtrain", "sft", "dpo", "ppo")
TARGET_PERCENT = 1.0
WARM_UP_STEPS = 10
RUNS_MIN = 2
ALTERNATING, WHOLE = "alternating", "whole"


class Note(NamedTuple):
    """Clocks at the end of a step. All in seconds."""

    is_monitored: bool
    """From here to the next note."""
    wall: float
    trainer_cpu: float
    """Of all the trainer's threads, the client's own among them."""
    sidecar_cpu: float


class Step(NamedTuple):
    """What one step took, in seconds."""

    block: int
    is_monitored: bool
    wall: float
    trainer_cpu: float
    sidecar_cpu: float


Run = list[Step]


# -- inside the trainer's process --------------------------------------------------------------------------------------


def train(kind: str, seed: int, block_seconds: float, sidecar_pid: int, arguments: list[str]) -> int:
    """The trainer as it is, its monitoring switched; the notes go to the file $BENCHMARK_NOTES."""
    notes: list[tuple[int, Note]] = []
    kinds, block = paired.alternation(seed), -1
    is_monitored, left = True, WARM_UP_STEPS

    def switch(on: bool) -> None:
        nonlocal is_monitored
        is_monitored = on
        os.kill(sidecar_pid, signal.SIGCONT if on else signal.SIGSTOP)

    def after_step(run: Any) -> None:
        nonlocal left, block
        left -= 1
        if left <= 0:
            block += 1
            left = _block_steps(notes, block_seconds)
            if kind == ALTERNATING:
                switch(next(kinds))
        clocks = time.perf_counter(), time.process_time(), common.process_cpu_seconds(sidecar_pid)
        notes.append((block, Note(is_monitored, *clocks)))

    common.switch_client(lambda: is_monitored, after_step, before_finish=lambda: switch(True))
    try:
        common.run_trainer(arguments)
    finally:
        switch(True)
        Path(os.environ["BENCHMARK_NOTES"]).write_text(json.dumps(notes))
    return 0


def _block_steps(notes: list[tuple[int, Note]], block_seconds: float) -> int:
    """From the warm-up without its first, slow steps, so that all blocks of a run are alike."""
    warm = [note.wall for _, note in notes[2:WARM_UP_STEPS]]
    return max(1, round(block_seconds * (len(warm) - 1) / (warm[-1] - warm[0])))


# -- outside ----------------------------------------------------------------------------------------------------------


def run_trainer(sidecar: common.Sidecar, kind: str, seed: int, options: Any, arguments: list[str]) -> Run:
    print(f"{arguments[0]}: {kind} run {seed + 1}", file=sys.stderr, flush=True)
    file = sidecar.folder / "notes.json"
    common.run_or_exit(
        ["-m", "benchmarks.stage_inflation", kind, str(seed), str(options.block_seconds), str(sidecar.pid), *arguments],
        SIDECAR_ENDPOINT=sidecar.endpoint, BENCHMARK_NOTES=str(file),
    )  # fmt: skip
    return steps_of([(block, Note(*note)) for block, note in json.loads(file.read_text())])


def steps_of(notes: Sequence[tuple[int, Note]]) -> Run:
    """What happened from each note to the next."""
    return [
        Step(block, a.is_monitored, *(after - before for before, after in zip(a[1:], b[1:], strict=True)))
        for (block, a), (_, b) in itertools.pairwise(notes)
    ]


def blocks_of(runs: Sequence[Run], whole: Sequence[Run], clock: str) -> Iterator[list[paired.Block]]:
    """The blocks of each run. Their values are a step's seconds, without what the other runs foretell of them."""
    for own, run in enumerate(runs):
        logs = [math.log(getattr(step, clock)) for step in run]
        others = [*whole, *(other for number, other in enumerate(runs) if number != own)]
        fastest = [math.log(min(getattr(step, clock) for step in same)) for same in zip(*others, strict=True)]
        slope = _slope(fastest, logs)
        expected = [slope * value for value in fastest]
        values = [(step, math.exp(a - b)) for step, a, b in zip(run, logs, expected, strict=True) if step.block >= 0]
        groups = [list(group) for _, group in itertools.groupby(values, lambda pair: pair[0].block)]
        yield [paired.Block(group[0][0].is_monitored, [value for _, value in group]) for group in groups]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Between 0 (``x`` says nothing of ``y``: batches are alike) and 1 (it says all)."""
    if min(x) == max(x):
        return 0.0
    return min(1.0, max(0.0, statistics.linear_regression(x, y).slope))


class Figures(NamedTuple):
    capped: paired.Growth
    """Of the step time, disturbances capped: the one to judge by."""
    mean: paired.Growth
    """Of the step time as it is."""
    cpu: paired.Growth
    """Of the trainer's threads, all steps of each block."""
    noise: paired.Growth
    """Of neighbouring blocks that differ in nothing."""
    ratios: list[float]
    """With / without of each pair of blocks: what ``capped`` is of."""


def figures(runs: Sequence[Run], whole: Sequence[Run] = ()) -> Figures:
    """From alternating runs, two at least; ``whole`` are further runs of the same work.

    Raises SystemExit when they are too short for pairs of blocks.
    """
    wall, cpu = (list(blocks_of(runs, whole, clock)) for clock in ("wall", "trainer_cpu"))
    capped = [ratio for blocks in wall for ratio in paired.pair_ratios(blocks, paired.capped_mean)]
    means = [ratio for blocks in wall for ratio in paired.pair_ratios(blocks, statistics.fmean)]
    of_cpu = [ratio for blocks in cpu for ratio in paired.pair_ratios(blocks, statistics.fmean)]
    noise = [ratio for blocks in wall for ratio in paired.noise_ratios(blocks, paired.capped_mean)]
    if not (capped and noise):
        raise SystemExit("a run was too short for pairs of blocks: more --steps or shorter --block-seconds")
    return Figures(
        paired.growth(capped), paired.mean_growth(means), paired.growth(of_cpu), paired.growth(noise), capped
    )


def sidecar_percent(runs: Sequence[Run]) -> float:
    """The sidecar's CPU time over the time of the monitored steps: percent of one core."""
    steps = [step for run in runs for step in run if step.block >= 0 and step.is_monitored]
    return 100 * sum(step.sidecar_cpu for step in steps) / sum(step.wall for step in steps)


def measure(stage: str, sidecar: common.Sidecar, options: Any) -> list[float]:
    """A whole run, then alternating ones until the bounds are narrow or the time is up; then print. See ``report``."""
    arguments = [stage, "--quiet", *options.trainer_arguments.split()]
    deadline = time.monotonic() + 60 * options.minutes
    whole = run_trainer(sidecar, WHOLE, 0, options, arguments)
    runs: list[Run] = []
    run_seconds = 0.0
    while len(runs) < RUNS_MIN or time.monotonic() + run_seconds < deadline:
        began = time.monotonic()
        runs.append(run_trainer(sidecar, ALTERNATING, len(runs), options, arguments))
        run_seconds = time.monotonic() - began
        if len(runs) >= RUNS_MIN and figures(runs, [whole]).capped.half_width <= options.half_width:
            break
    return report(stage, runs, whole)


def report(stage: str, runs: Sequence[Run], whole: Run) -> list[float]:
    """Returns with / without of each pair of blocks, what was missing of the sidecar's CPU time added."""
    found = figures(runs, [whole])
    steps = [step for run in runs for step in run if step.block >= 0]
    step_ms = 1e3 * statistics.median(step.wall for step in steps if not step.is_monitored)
    pairs = len(found.ratios)
    print(f"{stage}: a step takes {step_ms:.1f} ms; {len(steps):,} steps in {len(runs)} runs, {pairs} pairs of "
          f"blocks of {len(steps) / 2 / pairs:.0f}")  # fmt: skip
    for name, value in (
        ("step time, disturbances capped", found.capped),
        ("step time, plain mean", found.mean),
        ("CPU time of all the trainer's threads", found.cpu),
        ("noise: blocks that differ in nothing", found.noise),
    ):
        print(f"  {name:38} {value}")
    within, everything = sidecar_percent(runs), sidecar_percent([whole])
    missing = max(0.0, everything - within)
    print(f"  sidecar's CPU time, of one core: {everything:.2f} % in a whole run, {within:.2f} % in the monitored "
          f"blocks; {missing:.2f} % is added")  # fmt: skip
    total = paired.Growth(*(percent + missing for percent in found.capped))
    paired.print_decision(f"{stage}: growth of a step by all of its monitoring", total, TARGET_PERCENT)
    return [ratio + missing / 100 for ratio in found.ratios]


def add_options(parser: Any) -> None:
    group = parser.add_argument_group("with --trainer")
    group.add_argument("--stage", choices=(*STAGES, "all"), default="pretrain", help="(default pretrain)")
    group.add_argument("--minutes", type=float, default=4.0, help="time for each stage (default 4)")
    group.add_argument("--half-width", type=float, default=0.3, metavar="PERCENT",
                       help="bounds as narrow as this end the stage earlier (default 0.3)")  # fmt: skip
    group.add_argument("--block-seconds", type=float, default=1.0, help="length of a block (default 1)")
    group.add_argument("--trainer-arguments", default="--steps 240 --eval_freq 100000 --generate_freq 100000",
                       help="what the trainer is run with")  # fmt: skip


def report_stages(options: Any) -> None:
    common.print_machine()
    common.set_priority(options.nice)  # Of the sidecar too: it must compete with the trainer as it always does.
    with common.sidecar_alive() as sidecar:
        stages = STAGES if options.stage == "all" else (options.stage,)
        ratios = [ratio for stage in stages for ratio in measure(stage, sidecar, options)]
    if len(stages) > 1:
        paired.print_decision("all stages together", paired.growth(ratios), TARGET_PERCENT)
    common.print_load_after()


if __name__ == "__main__":
    sys.exit(train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]))
