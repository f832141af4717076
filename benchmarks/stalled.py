"""The trainer does not notice when everything behind its ring stands still.

Proves: with the sidecar and every one of its children (so every outlet) stopped by SIGSTOP for a while, the p99 of
``run.step`` stays within the noise, which is the difference between the equal times before and after; the trainer's
memory does not grow; and after SIGCONT all that was emitted is acknowledged.

    python -m benchmarks.stalled                # 60 s stopped, two minutes in all
    python -m benchmarks.stalled --seconds 10 --sink wandb
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import common, witness
from benchmarks.footprint import descendants, memory_mib


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Process ``pid`` and everything it started stand still while inside."""
    everyone = [pid, *descendants(pid)]
    for one in everyone:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in everyone:
            os.kill(one, signal.SIGCONT)


class Trainer:
    def __init__(self, endpoint: str, rounds: int) -> None:
        import sidecar as client

        self.run, self.step, self._rounds = client.init("stalled", endpoint=endpoint), 0, rounds

    def train(self, seconds: float) -> list[int]:
        """Steps of one millisecond; the durations of ``run.step`` in ns."""
        durations, ends = [], time.monotonic() + seconds
        while time.monotonic() < ends:
            common.work(self._rounds)
            arguments = common.step_arguments(self.step)
            began = time.perf_counter_ns()
            self.run.step(self.step, **arguments)
            durations.append(time.perf_counter_ns() - began)
            self.step += 1
        return durations

    def acknowledged(self) -> bool:
        ring = self.run._emitter.ring
        return ring.tail_seq == ring.head_seq


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long everything is stopped (default 60)")
    parser.add_argument("--sink", default=None, help="outlets to stop with it, e.g. wandb (offline)")
    options = parser.parse_args()
    common.print_machine()
    with common.folder() as folder:
        ring_mb = max(16, int(1000 * options.seconds * 420 / 2**20) + 1)
        os.environ["SIDECAR_RING_MB"] = str(ring_mb)
        outlets = ["--sink", options.sink] if options.sink else []
        sidecar = common.Sidecar(folder, *outlets, env=common.environment(WANDB_MODE="offline"))
        try:
            good = compare(sidecar, options.seconds, ring_mb)
        finally:
            sidecar.stop()
    common.print_load_after()
    return 0 if good else 1


def compare(sidecar: common.Sidecar, seconds: float, ring_mb: int) -> bool:
    trainer = Trainer(sidecar.endpoint, common.rounds_for())
    trainer.train(1.0)
    before = trainer.train(seconds / 2)
    memory_before = memory_mib(os.getpid())[0]
    with stopped(sidecar.pid):
        during = trainer.train(seconds)
        memory_during = memory_mib(os.getpid())[0]
    after = trainer.train(seconds / 2)
    delivered = common.wait_until(trainer.acknowledged, 60.0)
    lost, emitted = trainer.run._emitter.ring.overwritten, trainer.step
    trainer.run.finish(timeout_seconds=20.0)
    for name, durations in (("before", before), ("stopped", during), ("after", after)):
        print(f"run.step {name:8s} {len(durations):7d} calls  {common.microseconds(durations)}")
    journaled = _journaled(sidecar.folder)
    print(f"ring of {ring_mb} MB; emitted {emitted:,}, journaled {journaled:,}, overwritten {lost}")
    print(f"everything acknowledged afterwards: {'yes' if delivered else 'NO'}")
    p99 = {name: common.percentile(durations, 0.99) for name, durations in (("b", before), ("d", during), ("a", after))}
    noise = max(p99["a"], p99["b"]) / min(p99["a"], p99["b"])
    print(f"noise: p99 before and after differ by a factor of {noise:.2f}")
    common.verdict("ratio p99 stopped / before and after", p99["d"] / ((p99["a"] + p99["b"]) / 2), max(1.2, noise), "")
    growth = memory_during - memory_before
    common.verdict("trainer's memory grew by", growth, 8.0 + len(during) * 40 / 2**20, "MiB")
    return delivered and lost == 0 and journaled == emitted


def _journaled(folder: Path) -> int:
    return sum(len(steps) for steps in witness.journal_in(folder).steps.values())


if __name__ == "__main__":
    sys.exit(main())
