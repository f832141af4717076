"""By how much a training step grows when it reports twelve metrics to a live sidecar, measured in pairs.

Given: the length of a step, numbers of pairs and steps. Hands on: the growth with its bounds, and the noise.
Never: sends to the user's own sidecar, or claims more than the noise of the machine allows.

A pair is two blocks of steps, one with the call and one without, in an order drawn at random; beside them a third
block, without the call too, shows what pairs that differ in nothing differ by. benchmarks/inflation.py does the same
at length. The loop runs in a process of its own: the command line never imports the client.
"""

import os
import statistics
import subprocess

import msgspec

from sidecar import trial
from sidecar.errors import Exit, UserError
from sidecar.growth import growth

SEED = 20261121
TIMEOUT_SECONDS = 600.0

SCRIPT = """
import json, os, random, time
import sidecar
seconds, pairs, steps = json.loads(os.environ["SIDECAR_BENCH"])
more = {f"train/metric_{n}": 0.5 + n for n in range(7)}

def work(rounds):
    x = 1.0
    for _ in range(rounds):
        x = x * 1.0000001 + 1e-9
    return x

def timed(rounds):
    began = time.perf_counter()
    work(rounds)
    return time.perf_counter() - began

def block(run, first):
    began, cpu = time.perf_counter(), time.thread_time()
    for step in range(first, first + steps):
        work(rounds)
        values = dict(loss=2.5 + 1.0 / (step + 1), learning_rate=3e-4, grad_norm=0.75, tokens=16384, samples=16)
        if run is not None:
            run.step(step, metrics=more, **values)
    return time.perf_counter() - began, time.thread_time() - cpu

rounds = max(1, int(20000 * seconds / min(timed(20000) for _ in range(20))))
rng, run, number = random.Random(int(os.environ["SIDECAR_BENCH_SEED"])), sidecar.init(project="bench"), 0
block(run, number); number += steps
found = {"wall": [], "cpu": [], "noise": [], "step": []}
for _ in range(pairs):
    order = [run, None, None]
    rng.shuffle(order)
    loud, plain = None, []
    for which in order:
        if which is None:
            plain.append(block(None, number))
        else:
            loud = block(run, number)
        number += steps
    rng.shuffle(plain)
    found["wall"].append(loud[0] / plain[0][0])
    found["cpu"].append(loud[1] / plain[0][1])
    found["noise"].append(plain[1][0] / plain[0][0])
    found["step"].append(plain[0][0] / steps)
run.finish(timeout_seconds=5.0)
print(json.dumps(found))
"""


class Interval(msgspec.Struct, frozen=True):
    """The Hodges-Lehmann estimate of the median, and the bounds it lies between with 95 % confidence."""

    median: float
    low: float
    high: float


class Overhead(msgspec.Struct, frozen=True):
    pairs: int
    steps_per_block: int
    step_seconds: float
    """What a step without the call took."""
    growth_percent: Interval
    """Of the step's wall time."""
    cpu_growth_percent: Interval
    noise_percent: Interval
    """Of pairs that differ in nothing."""
    load_before: float
    load_after: float


def measure(step_seconds: float, *, pairs: int, steps: int) -> Overhead:
    """Takes about 3 x pairs x steps x step_seconds. Raises UserError when the loop did not run."""
    load = os.getloadavg()[0]
    with trial.folder() as made:
        made.start()
        settings = {"SIDECAR_BENCH": msgspec.json.encode((step_seconds, pairs, steps)).decode()}
        process = made.client(SCRIPT, SIDECAR_BENCH_SEED=str(SEED), **settings)
        try:
            out, _ = process.communicate(timeout=TIMEOUT_SECONDS + 6 * pairs * steps * step_seconds)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"the measured loop did not end within {error.timeout:.0f} s", "fewer steps, or a quieter machine",
                Exit.FAILED,
            ) from None
    try:
        found = msgspec.json.decode(out.strip().rpartition("\n")[2], type=dict[str, list[float]])
    except msgspec.DecodeError:
        raise UserError(f"the measured loop failed: {out.strip()[-300:]}", "`sidecar selftest`", Exit.FAILED) from None
    return Overhead(
        pairs, steps, statistics.median(found["step"]), interval(found["wall"]), interval(found["cpu"]),
        interval(found["noise"]), load, os.getloadavg()[0],
    )  # fmt: skip


def interval(ratios: list[float]) -> Interval:
    """From the ratio with / without of each pair; of six pairs at least, or the bounds are infinite."""
    found = growth(ratios)
    return Interval(found.percent, found.low, found.high)


def report(found: Overhead) -> list[str]:
    """Lines for people; the last one says how far the result can be trusted."""
    step, share = found.step_seconds, found.growth_percent
    microseconds = 1e6 * step * share.median / 100
    return [
        f"a step of {1e3 * step:.2f} ms with run.step (12 metrics) and without, {found.pairs} pairs of blocks of "
        f"{found.steps_per_block} steps, in random order",
        f"step time  {_shown(share)}, that is {microseconds:+.1f} us a step",
        f"CPU time   {_shown(found.cpu_growth_percent)}",
        f"noise      {_shown(found.noise_percent)}: pairs that differ in nothing",
        _trust(found),
    ]


def _shown(share: Interval) -> str:
    return f"{share.median:+6.2f} %   (95 %: {share.low:+.2f} .. {share.high:+.2f} %)"


def _trust(found: Overhead) -> str:
    share = found.growth_percent
    load = f"load {found.load_before:.1f} before, {found.load_after:.1f} after, {os.cpu_count() or 1} cores"
    if share.low <= 0 <= share.high:
        return f"the growth cannot be told from zero here ({load})"
    return f"the growth is real here ({load})" if share.median > 0 else f"a busy machine: measure again ({load})"
