"""What looking inside the model costs, beside a step of the reference trainer's default model.

Proves: the instruments that are on by default stay below 1 % of training time, and everything switched on, at default
periods, below 5 %.

    python -m benchmarks.probe_cost             # about half a minute; each kind of probe in pairs of steps
    python -m benchmarks.probe_cost --pairs 40

Each pair is two consecutive steps of one loop, one watched and one not; the cost of a sample is the median difference.
Time is CPU time of this process with one torch thread, so that whoever else is at work on the machine is not counted.
"""

import time
from collections.abc import Callable
from typing import Any

from benchmarks import common

EVERY = 100  # Run.watch's default.
NOTHING = {"gradients": False, "weights": False, "updates": False}
KINDS: dict[str, dict[str, Any]] = {
    "gradient norms": {**NOTHING, "gradients": True},
    "weight mean, std and norms": {**NOTHING, "weights": True},
    "update ratios": {**NOTHING, "updates": True},
    "activation statistics": {**NOTHING, "activations": True},
    "gradient histograms": {**NOTHING, "gradients": True, "histograms": ["gradients"]},
    "weight histograms": {**NOTHING, "histograms": ["weights"]},
    "activation histograms": {**NOTHING, "activations": True, "histograms": ["activations"]},
    "all that is on by default": {},
    "everything": {"histograms": True, "activations": True},
}
TIMED_STEPS = 2000


class Loop:
    """Steps of the trainer's default model on random tokens: forward, backward, clip, step, event."""

    def __init__(self, run: Any, batch_size: int) -> None:
        import torch

        from trainer.config import Config
        from trainer.model import GPT, ModelConfig
        from trainer.optimizer import build_optimizer

        torch.manual_seed(0)
        shape = ModelConfig()
        self.run, self.step, self._torch = run, 0, torch
        self.model = GPT(shape)
        self.optimizer = build_optimizer(self.model, Config())
        self._tokens = torch.randint(shape.vocab_size, (batch_size, shape.seq_len + 1))

    def __call__(self) -> float:
        """One step; CPU seconds of it."""
        began = time.process_time()
        logits = self.model(self._tokens[:, :-1])
        loss = self._torch.nn.functional.cross_entropy(logits.flatten(0, 1), self._tokens[:, 1:].flatten())
        loss.backward()
        self._torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.run.step(self.step, loss=loss)
        return time.process_time() - began


def sample_seconds(loop: Loop, pairs: int, options: dict[str, Any]) -> tuple[float, float]:
    """(cost of one sample, plain step), medians. The probe samples every second step."""
    probe = loop.run.watch(loop.model, loop.optimizer, every=2, **options)
    plain, differences = [], []
    for _ in range(2):  # The first step tells the probe where it is.
        loop()
    for _ in range(pairs):
        first, second = (loop.step + 1) % 2 == 0, loop()
        other = loop()
        watched, bare = (second, other) if first else (other, second)
        plain.append(bare)
        differences.append(watched - bare)
    probe.close()
    return common.median(differences), common.median(plain)


def call_seconds(function: Callable[[], Any], calls: int = TIMED_STEPS) -> float:
    for _ in range(100):
        function()
    began = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - began) / calls


def off_sample_seconds(loop: Loop) -> float:
    """The two hooks of a probe at a step that is not sampled."""
    probe = loop.run.watch(loop.model, loop.optimizer, every=10**9, activations=True)
    loop()

    def hooks() -> None:
        probe._before_clipping([])
        probe._before_step(loop.optimizer, (), {})
        probe._after_step(loop.optimizer, (), {})

    seconds = call_seconds(hooks)
    probe.close()
    return seconds


def phases_seconds(loop: Loop) -> float:
    """Three phases and a timed batch, as a fully marked loop has in each step."""
    batches = iter(loop.run.data([0] * 10_000))

    def marks() -> None:
        next(batches)
        for name in ("forward", "backward", "optimizer"):
            with loop.run.phase(name):
                pass

    return call_seconds(marks)


def main() -> None:
    options = common.parser(__doc__)
    options.add_argument("--pairs", type=int, default=15, help="pairs of steps for each kind")
    options.add_argument("--batch-size", type=int, default=16)
    given = options.parse_args()
    import torch

    import sidecar

    torch.set_num_threads(1)
    common.print_machine()
    with common.folder() as folder:
        run = sidecar.init("benchmark", endpoint=f"ipc://{folder}/events")
        loop = Loop(run, given.batch_size)
        for _ in range(3):
            loop()
        marks, idle = phases_seconds(loop), off_sample_seconds(loop)
        found = {name: sample_seconds(loop, given.pairs, kind) for name, kind in KINDS.items()}
        step = common.median([plain for _, plain in found.values()])
        params = sum(p.numel() for p in loop.model.parameters())
        print(f"model: {params:,} parameters, {given.batch_size} x 128 tokens; a step takes {1e3 * step:.1f} ms of CPU")
        print(f"{'at each step':28}  {'us':>8}  {'of a step':>9}")
        for name, seconds in (("phases and data_wait", marks), ("a probe between samples", idle)):
            print(f"{name:28}  {1e6 * seconds:8.2f}  {100 * seconds / step:8.3f}%")
        print(f"{f'a sample, every {EVERY} steps':28}  {'ms':>8}  {'of a step':>9}  {'of training':>11}")
        for name, (cost, _) in found.items():
            print(f"{name:28}  {1e3 * cost:8.2f}  {100 * cost / step:8.1f}%  {100 * cost / step / EVERY:10.3f}%")
        for name, bound in (("all that is on by default", 1.0), ("everything", 5.0)):
            share = 100 * (found[name][0] / EVERY + marks + idle) / step
            common.verdict(f"{name}, with phases: share of training time", share, bound, "%")
        if run.rejected:
            print(f"MISS rejected: {run.rejected}")
        run.finish(timeout_seconds=0.0)
    common.print_load_after()


if __name__ == "__main__":
    main()
