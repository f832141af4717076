"""What one ``run.step`` with twelve metrics costs the training loop, beside an inline ``socket.send``.

Proves: with a live sidecar and one call per millisecond of work, the call takes a few microseconds, at most a fifth of
sending the same bytes over ZeroMQ inside the loop, and makes no system call.

    python -m benchmarks.step_cost              # p50, p99, worst; blocks of both kinds interleaved in one run
    python -m benchmarks.step_cost --strace     # counts system calls between the marks around each call
"""

import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

from benchmarks import common

STEPS_PER_BLOCK = 200
WARM_UP_STEPS = 300
UNDISTURBED = 1.05  # Work that took no longer than this share of the fastest was alone on its core.
MARK = "/benchmark-mark"  # access() of a path that does not exist: a system call that is easy to find in a trace.


class Call(NamedTuple):
    ns: int
    work_ns: int
    """How long the work before it took: the machine's noise at that moment."""


def measure(sidecar: common.Sidecar, blocks: int, core: int | None, nice: int | None) -> dict[str, list[Call]]:
    """Durations by kind of block: "step" (ours), "send" (inline), "clock" (two clock readings, no call)."""
    import zmq

    import sidecar as client

    rounds = common.rounds_for()
    peer = subprocess.Popen([sys.executable, "-m", "benchmarks.step_cost", "--router", f"{sidecar.endpoint}-send"],
                            env=common.environment(), cwd=common.REPOSITORY)  # fmt: skip
    common.set_priority(nice)
    run = client.init("benchmark", endpoint=sidecar.endpoint)
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.connect(f"{sidecar.endpoint}-send")
    common.pin(core)
    try:
        socket.send(b"ready?")
        if not socket.poll(10_000):
            raise SystemExit("the receiver of the inline sends did not start")
        return _blocks(run, socket, rounds, blocks)
    finally:
        common.kill(peer)
        context.destroy(linger=0)
        run.finish(timeout_seconds=5.0)


def _blocks(run, socket, rounds: int, blocks: int) -> dict[str, list[Call]]:
    import zmq

    found: dict[str, list[Call]] = {"step": [], "send": [], "clock": []}
    payload, number = common.encoded_step(1), 0
    for _ in range(WARM_UP_STEPS):
        common.work(rounds)
        run.step(number, **common.step_arguments(number))
        socket.send(payload, zmq.NOBLOCK)
        number += 1
    for block in range(3 * blocks):
        kind = ("step", "send", "clock")[block % 3]
        calls = found[kind]
        for _ in range(STEPS_PER_BLOCK):
            arguments = common.step_arguments(number)
            started = perf_counter_ns()
            common.work(rounds)
            if kind == "step":
                began = perf_counter_ns()
                run.step(number, **arguments)
                ended = perf_counter_ns()
                number += 1
            elif kind == "send":
                began = perf_counter_ns()
                socket.send(payload, zmq.NOBLOCK)
                ended = perf_counter_ns()
            else:
                began = perf_counter_ns()
                ended = perf_counter_ns()
            calls.append(Call(ended - began, began - started))
    return found


def undisturbed(calls: list[Call], everything: list[Call]) -> list[int]:
    """Calls after a millisecond of work that nothing else slowed: a choice that does not look at the call itself."""
    fastest = common.percentile([call.work_ns for call in everything], 0.05)
    return [call.ns for call in calls if call.work_ns <= UNDISTURBED * fastest]


def router(endpoint: str) -> None:
    """The other side of the inline sends: a live receiver that answers the first message and reads the rest."""
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    peer, _ = socket.recv_multipart()
    socket.send_multipart([peer, b"ready"])
    while True:
        socket.recv_multipart()


def marked_steps(endpoint: str, steps: int) -> None:
    """Under strace: call after call between two marks, with work outside them."""
    import sidecar as client

    run = client.init("benchmark", endpoint=endpoint)
    for step in range(20):
        run.step(step, **common.step_arguments(step))
    for step in range(20, 20 + steps):
        arguments = common.step_arguments(step)
        common.work(2000)
        os.access(MARK, os.F_OK)
        run.step(step, **arguments)
        os.access(MARK, os.F_OK)
    run.finish(timeout_seconds=10.0)


def count_system_calls(trace: str, main_thread: str) -> tuple[int, collections.Counter[str]]:
    """Marked calls seen, and system calls of the stepping thread between the two marks of each."""
    calls, inside, counts = 0, False, collections.Counter[str]()
    for line in trace.splitlines():
        thread, _, rest = line.partition(" ")
        name = re.match(r"\s*(?:<\.\.\. )?(\w+)", rest)
        if thread != main_thread or name is None or "resumed>" in rest:
            continue
        if MARK in rest:
            calls += inside
            inside = not inside
        elif inside:
            counts[name[1]] += 1
    return calls, counts


def strace(steps: int) -> int:
    """Count the system calls inside ``run.step``. 0: none."""
    if shutil.which("strace") is None:
        raise SystemExit("strace is not installed: apt-get install strace")
    with common.sidecar_alive() as sidecar, tempfile.NamedTemporaryFile("r", suffix=".strace") as file:
        child = [sys.executable, "-m", "benchmarks.step_cost", "--marked", sidecar.endpoint, "--steps", str(steps)]
        done = subprocess.run(["strace", "-f", "-o", file.name, *child], env=common.environment(),
                              cwd=common.REPOSITORY, timeout=300)  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"strace ended with {done.returncode}; it may not be allowed here (ptrace)")
        trace = Path(file.name).read_text(errors="replace")
    main_thread = trace.split(" ", 1)[0]
    calls, counts = count_system_calls(trace, main_thread)
    lock = counts.pop("futex", 0)
    print(f"{calls} calls of run.step traced; system calls inside them: {sum(counts.values())} {dict(counts)}")
    print(f"futex inside them: {lock} (the interpreter passing its lock to the pump thread, which a wake-up asks for)")
    common.verdict("system calls per run.step", sum(counts.values()) / max(1, calls), 0, "")
    common.verdict("interpreter lock hand-overs per run.step", lock / max(1, calls), 0.02, "")
    return 0 if calls == steps and not counts else 1


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--blocks", type=int, default=20, help="blocks of 200 steps of each kind (default 20)")
    common.add_placement(parser)
    parser.add_argument("--strace", action="store_true", help="count system calls instead of time")
    parser.add_argument("--steps", type=int, default=2000, help="with --strace: calls traced (default 2000)")
    parser.add_argument("--router", help=common.argparse.SUPPRESS)
    parser.add_argument("--marked", help=common.argparse.SUPPRESS)
    options = parser.parse_args()
    if options.router:
        router(options.router)
    elif options.marked:
        marked_steps(options.marked, options.steps)
    elif options.strace:
        return strace(options.steps)
    else:
        report(options)
    return 0


def report(options) -> None:
    common.print_machine()
    with common.sidecar_alive() as sidecar:
        found = measure(sidecar, options.blocks, options.pin, options.nice)
    everything = [call for calls in found.values() for call in calls]
    print(f"{len(found['step'])} calls each, one per millisecond of work, blocks of {STEPS_PER_BLOCK} interleaved")
    quiet = {kind: undisturbed(calls, everything) for kind, calls in found.items()}
    for kind, label in (("step", "run.step, 12 metrics"), ("send", "inline socket.send"), ("clock", "clock alone")):
        print(f"{label:22s}{common.microseconds([call.ns for call in found[kind]])}")
        if quiet[kind]:
            share = len(quiet[kind]) / len(found[kind])
            print(f"  undisturbed ({share:4.0%}) {common.microseconds(quiet[kind])}")
    p50, p99 = (common.percentile([call.ns for call in found["step"]], share) / 1e3 for share in (0.5, 0.99))
    common.verdict("run.step p50", p50, 4.0, "us")
    common.verdict("run.step p99", p99, 20.0, "us")
    if quiet["step"]:
        common.verdict("run.step p99, undisturbed", common.percentile(quiet["step"], 0.99) / 1e3, 20.0, "us")
    ratio = p50 * 1e3 / common.percentile([call.ns for call in found["send"]], 0.5)
    common.verdict("ratio run.step / inline send (p50)", ratio, 0.2, "")
    common.print_load_after()


if __name__ == "__main__":
    sys.exit(main())
