"""A long run with random faults: the sidecar's memory and descriptors do not creep.

A trainer emits 1,000 events a second; it is killed and stopped, the sidecar is stopped, its disk is full at times,
at random moments. The sidecar itself lives on, so that its memory can be watched.

    python -m benchmarks.soak --minutes 60      # the figure of the promise
    python -m benchmarks.soak --minutes 2 --seed 7

Proves: over the second half of the time the resident memory grows by less than 1 MiB an hour beyond the noise of the
fit, the number of open descriptors ends where it was, and nothing is lost. The exit code is 1 if something is.
"""

import os
import random
import secrets
import sys
import threading
import time
from typing import NamedTuple

from benchmarks import common, witness
from benchmarks.chaos import Testbed
from benchmarks.footprint import memory_mib

FAULTS = ("stop_sidecar", "kill_trainer", "stop_trainer", "fill_disk")
SAMPLE_SECONDS = 1.0
SLOPE_MIB_PER_HOUR_MAX = 1.0


class Sample(NamedTuple):
    seconds: float
    resident_mib: float
    descriptors: int


class Watcher(threading.Thread):
    """Samples a process once a second until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._pid, self._ended, self._began = pid, threading.Event(), time.monotonic()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            descriptors = len(os.listdir(f"/proc/{self._pid}/fd"))
            self.samples.append(Sample(time.monotonic() - self._began, memory_mib(self._pid)[0], descriptors))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least squares: (slope, its standard error). Raises ZeroDivisionError for fewer than three points."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    value = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in points)
    return value, (rest / (n - 2) / spread) ** 0.5


def inject_faults(testbed: Testbed, seconds: float, every_seconds: float) -> int:
    ends, faults = time.monotonic() + seconds, 0
    while True:
        pause = testbed.rng.expovariate(1 / every_seconds)
        if time.monotonic() + pause > ends:
            time.sleep(max(0.0, ends - time.monotonic()))
            return faults
        time.sleep(pause)
        getattr(testbed, testbed.rng.choice(FAULTS))()
        faults += 1


def report(samples: list[Sample]) -> None:
    late = samples[len(samples) // 2 :]
    per_second, error = slope([(sample.seconds, sample.resident_mib) for sample in late])
    first, last = samples[len(samples) // 10], samples[-1]
    print(
        f"memory {first.resident_mib:.1f} MiB early, {late[0].resident_mib:.1f} half way, {last.resident_mib:.1f} last"
    )
    low, high = min(sample.descriptors for sample in late), max(sample.descriptors for sample in late)
    print(f"descriptors {low} to {high}, last {last.descriptors}")
    bound = SLOPE_MIB_PER_HOUR_MAX + 3 * 3600 * error
    common.verdict("memory of the sidecar grows by", 3600 * per_second, bound, "MiB an hour")
    common.verdict("ratio descriptors at the end / half way", last.descriptors / late[0].descriptors, 1.1, "")


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--every", type=float, default=15.0, help="mean seconds between faults (default 15)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--endpoint", choices=("ipc", "tcp"), default="ipc")
    options = parser.parse_args()
    common.print_machine()
    print(f"seed {options.seed}", flush=True)
    with common.folder() as folder:
        (folder / "data").mkdir(mode=0o700)
        testbed = Testbed(folder, options, random.Random(options.seed))
        try:
            common.wait_until(lambda: testbed.counter.exists() and witness.emitted(testbed.counter) > 0)
            watcher = Watcher(testbed.sidecar.pid)
            watcher.start()
            faults = inject_faults(testbed, 60 * options.minutes, options.every)
            watcher.stop()
            settled = testbed.settle()
            testbed.sidecar.stop()
            found = witness.compare(witness.journal_in(folder), witness.emitted(testbed.counter), testbed.trainers)
        finally:
            testbed.close()
    print(f"{options.minutes:g} minutes at {options.rate:,.0f} events/s, {faults} faults, {testbed.trainers} trainers")
    report(watcher.samples)
    found.print()
    common.print_load_after()
    return 0 if settled and found.nothing_lost else 1


if __name__ == "__main__":
    sys.exit(main())
