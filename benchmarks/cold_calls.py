"""What the calls of a training step cost when nothing of them is left in the processor's caches.

Proves: after work that fills the caches, as a forward pass does, all calls of a step (four phases, the consumption of
a dataset, ``run.step``) together take at most half a percent of a step of 100 ms; beside them, in the same run, a
function that does nothing (what no call can be cheaper than) and an inline ``socket.send``.

    python -m benchmarks.cold_calls
"""

import sys
from collections.abc import Callable, Iterator
from time import perf_counter_ns

from benchmarks import common

STEP_SECONDS = 0.1
SHARE_PERCENT = 0.5
FILL_BYTES = 64 * 2**20  # More than the caches of a core, and of most processors.
PHASES = ("data_wait", "forward", "backward", "optimizer")
EMPTY, PHASE, DATASET, STEP, SEND = "a function that does nothing", "phase", "dataset", "step", "inline socket.send"


class Cold:
    """Calls what it is given once the caches hold something else."""

    def __init__(self) -> None:
        self._from, self._to = bytearray(FILL_BYTES), bytearray(FILL_BYTES)
        self.ns: dict[str, list[int]] = {}

    def time(self, name: str, call: Callable[[], object]) -> int:
        self._to[:] = self._from
        began = perf_counter_ns()
        call()
        took = perf_counter_ns() - began
        self.ns.setdefault(name, []).append(took)
        return took


def measure(run, send: Callable[[], object], steps: int) -> tuple[dict[str, list[int]], list[int]]:
    """Nanoseconds of each kind of call, and of all our calls in each step."""
    cold, whole = Cold(), []
    for number in range(steps):
        arguments = common.step_arguments(number)
        cold.time(EMPTY, lambda: None)
        cold.time(SEND, send)
        whole.append(sum(_step(cold, run, number, arguments)))
    return cold.ns, whole


def _step(cold: Cold, run, number: int, arguments) -> Iterator[int]:
    for name in PHASES:
        phase = None

        def enter(name=name):
            nonlocal phase
            phase = run.phase(name).__enter__()

        entering = cold.time("enter", enter)
        leaving = cold.time("leave", lambda: phase.__exit__(None, None, None))  # noqa: B023 - Called at once.
        cold.ns.setdefault(PHASE, []).append(entering + leaving)
        yield entering + leaving
    yield cold.time(DATASET, lambda: run.dataset("fineweb", samples=16, tokens=16384))
    yield cold.time(STEP, lambda: run.step(number, **arguments))


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="steps measured (default 200)")
    common.add_placement(parser)
    options = parser.parse_args()
    import zmq

    import sidecar as client

    common.print_machine()
    with common.sidecar_alive() as sidecar, zmq.Context() as context:
        common.set_priority(options.nice)
        run = client.init("benchmark", endpoint=sidecar.endpoint)
        receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        receiver.bind(f"{sidecar.endpoint}-send")
        sender.connect(f"{sidecar.endpoint}-send")
        common.pin(options.pin)
        payload = common.encoded_step(1)
        found, whole = measure(run, lambda: sender.send(payload), options.steps)
        run.finish(timeout_seconds=5.0)
        context.destroy(linger=0)
    for name in (EMPTY, PHASE, DATASET, STEP, SEND):
        print(f"{name:30s}{common.microseconds(found[name])}")
    print(f"{'all of a step':30s}{common.microseconds(whole)}")
    middle = common.percentile(whole, 0.5)
    common.verdict("share of a step of 100 ms", middle / STEP_SECONDS / 1e7, SHARE_PERCENT, "%")
    common.verdict("all of a step / inline sends as many", middle / (6 * common.percentile(found[SEND], 0.5)), 1.0, "")
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
