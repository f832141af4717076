"""By how much the reference trainer slows down with its instruments: those on by default, and everything at once.

Proves: the default ones (steps, phases, waits, and what `run.watch` gives unasked) take less than 1 % of training time,
everything switched on (histograms and activations too), at default periods, less than 5 %.

    python -m benchmarks.instruments                 # about ten minutes: blocks of 100 steps, each with one sample
    python -m benchmarks.instruments --rounds 2 --every 10 --trainer-arguments "--batch_size 2"   # quick, and dearer

One run of the trainer, cut into blocks of as many steps as lie between two samples. Rounds of three blocks, in an order
drawn at random: without any call of the client, with the default instruments, with everything. Each ratio compares two
blocks of one round. Wall time is what counts; CPU time of the process is printed beside it, as it hears less of whoever
else is at work on the machine.
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import common, paired

SEED = 20261121
EVERY = 100  # Run.watch's default.
NOTHING, DEFAULT, EVERYTHING = "nothing", "default", "everything"
KINDS: dict[str, dict[str, Any]] = {NOTHING: {}, DEFAULT: {}, EVERYTHING: {"histograms": True, "activations": True}}
BOUNDS = {DEFAULT: 1.0, EVERYTHING: 5.0}


class Blocks:
    """Switches the instruments of one run at the end of each block, and notes what each block took."""

    def __init__(self, every: int, rounds: int) -> None:
        rng = random.Random(SEED)
        warm_up = [DEFAULT, NOTHING]
        self.order = warm_up + [kind for _ in range(rounds) for kind in rng.sample(list(KINDS), len(KINDS))]
        self.every = every
        self.taken: list[tuple[str, float, float]] = []
        self._probe: Any = None
        self._steps, self._began = 0, (0.0, 0.0)

    @property
    def steps(self) -> int:
        return self.every * len(self.order)

    @property
    def kind(self) -> str:
        return self.order[min(self._steps // self.every, len(self.order) - 1)]

    def install(self) -> None:
        """Every call of the client, and the trainer's introduction to the sidecar, pass through here from now on."""
        from trainer.loop import Loop

        opened = Loop.open

        def open_and_watch(loop: Any) -> None:
            opened(loop)
            self._switch(loop)

        Loop.open = open_and_watch  # type: ignore[method-assign]
        common.switch_client(lambda: self.kind != NOTHING, lambda run: self._count(self._loop))

    def _count(self, loop: Any) -> None:
        kind = self.kind
        self._steps += 1
        if self._steps % self.every == 0:
            wall, cpu = (now - then for now, then in zip(_clocks(), self._began, strict=True))
            self.taken.append((kind, wall, cpu))
            self._switch(loop)

    def _switch(self, loop: Any) -> None:
        self._loop = loop
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self.kind != NOTHING:
            self._probe = loop.run.watch(loop.raw_model, loop.optimizer, every=self.every, **KINDS[self.kind])
        self._began = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def train(every: int, rounds: int, arguments: list[str]) -> int:
    """In a process of its own: the trainer as it is, with its instruments switched block by block."""
    blocks = Blocks(every, rounds)
    blocks.install()
    try:
        common.run_trainer(["pretrain", "--quiet", "--steps", str(blocks.steps), *arguments])
    finally:
        Path(os.environ["BENCHMARK_BLOCKS"]).write_text(json.dumps(blocks.taken))
    return 0


def measured(given: Any) -> list[tuple[str, float, float]]:
    arguments = ["--train", str(given.every), str(given.rounds), *given.trainer_arguments.split()]
    with common.sidecar_alive() as sidecar:
        noted = sidecar.folder / "blocks.json"
        common.run_or_exit(["-m", "benchmarks.instruments", *arguments],
                           SIDECAR_ENDPOINT=sidecar.endpoint, BENCHMARK_BLOCKS=str(noted))  # fmt: skip
        return [tuple(block) for block in json.loads(noted.read_text())][2:]  # The first two warm up.


def growth(blocks: list[tuple[str, float, float]], kind: str, which: int) -> paired.Growth:
    """By how much a block of ``kind`` takes longer than the one of its round without any call."""
    rounds = [{name: clocks for name, *clocks in blocks[i : i + 3]} for i in range(0, len(blocks) - 2, 3)]
    return paired.growth([each[kind][which] / each[NOTHING][which] for each in rounds])


def main() -> int:
    if sys.argv[1:2] == ["--train"]:
        return train(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of three blocks (default 8)")
    parser.add_argument("--every", type=int, default=EVERY, help="steps in a block, one of them sampled (default 100)")
    parser.add_argument("--trainer-arguments", default="", help="more options for the trainer")
    given = parser.parse_args()
    given.trainer_arguments = f"--eval_freq 1000000 --generate_freq 1000000 {given.trainer_arguments}"
    common.print_machine()
    blocks = measured(given)
    plain = common.median([wall for kind, wall, _ in blocks if kind == NOTHING])
    step = f"a step takes {1e3 * plain / given.every:.1f} ms"
    print(f"{given.rounds} rounds of blocks of {given.every} steps, seed {SEED}; {step}")
    for kind, bound in BOUNDS.items():
        wall, cpu = (growth(blocks, kind, which) for which in range(2))
        print(f"{kind:11} wall time of training grows by {wall}")
        print(f"{kind:11} CPU  time of training grows by {cpu}")
        paired.print_decision(f"growth of training time by {kind} instruments", wall, bound)
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
