"""How long a scrape of /metrics takes while the sidecar is as busy as it can be.

Proves: served from memory, p99 at most 50 ms with 64 ranks and 8 GPUs while events arrive at full speed, and 100
scrapes at once are all answered. The GPUs are the stand-in library of the tests; without gcc there are none.

    python -m benchmarks.scrape                 # about half a minute
    python -m benchmarks.scrape --ranks 8 --seconds 5
"""

import concurrent.futures
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks import common

GPUS = 8
PARALLEL = 100
PAUSE_SECONDS = 0.02


def fake_gpus(folder: Path) -> dict[str, str] | None:
    """Environment in which a process finds eight GPUs. None: there is no compiler to build the stand-in with."""
    from tests.fakes.nvml.fake import FakeGpus, build

    library = folder / "nvml"
    library.mkdir()
    try:
        build(library)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    FakeGpus(folder / "gpus", GPUS)
    return {
        "LD_LIBRARY_PATH": f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "FAKE_NVML_STATE": str(folder / "gpus"),
    }


def scrape(url: str) -> tuple[float, int]:
    """(seconds, bytes) of one scrape on a connection of its own."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        size = len(answer.read())
    return time.perf_counter() - began, size


def scrape_for(url: str, seconds: float) -> list[float]:
    durations, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        durations.append(scrape(url)[0])
        time.sleep(PAUSE_SECONDS)
    return durations


def flood(endpoint: str, ranks: int) -> "subprocess.Popen[str]":
    """Every rank sends as fast as it is acknowledged, until it is killed."""
    command = [sys.executable, "-m", "benchmarks.ranks", endpoint, "flood", "--ranks", str(ranks)]
    process = subprocess.Popen(
        [*command, "--steps", "100000000", "--frame-events", "16"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=common.environment(),
        cwd=common.REPOSITORY,
    )
    if process.stdout.readline().strip() != "ready":
        raise SystemExit("the simulated ranks were not taken by the sidecar")
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part (default 10)")
    options = parser.parse_args()
    common.print_machine()
    with common.folder() as folder:
        gpus = fake_gpus(folder)
        described = f"{GPUS} (stand-in)" if gpus else "none (no gcc to build the stand-in with)"
        print(f"GPUs: {described}; {options.ranks} ranks")
        sidecar = common.Sidecar(folder, env=common.environment(**(gpus or {})))
        try:
            measure(sidecar, options)
        finally:
            sidecar.stop()
    common.print_load_after()
    return 0


def measure(sidecar: common.Sidecar, options) -> None:
    process = flood(sidecar.endpoint, options.ranks)
    try:
        time.sleep(2.0)
        events_began, began = _events(sidecar), time.monotonic()
        busy = scrape_for(sidecar.http, options.seconds)
        rate = (_events(sidecar) - events_began) / (time.monotonic() - began)
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            together = [seconds for seconds, _ in pool.map(lambda _: scrape(sidecar.http), range(PARALLEL))]
    finally:
        common.kill(process)
    common.wait_until(lambda: _settled(sidecar), 30.0, every_seconds=0.5)
    idle = scrape_for(sidecar.http, min(5.0, options.seconds))
    size = scrape(sidecar.http)[1]
    p50, p99 = (1e3 * common.percentile(busy, share) for share in (0.5, 0.99))
    print(f"{len(busy)} scrapes of {size:,} bytes while {rate:,.0f} events/s arrived:", end=" ")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {1e3 * max(busy):.1f} ms")
    print(f"idle: p50 {1e3 * common.percentile(idle, 0.5):.1f} ms, p99 {1e3 * common.percentile(idle, 0.99):.1f} ms")
    print(f"{PARALLEL} at once: all answered, the last after {1e3 * max(together):.0f} ms")
    common.verdict("/metrics p99 during ingest", p99, 50, "ms")
    common.verdict("ratio busy / idle (p50)", p50 / (1e3 * common.percentile(idle, 0.5)), 10, "")


def _events(sidecar: common.Sidecar) -> int:
    return sidecar.status()["sidecar"]["events_total"]


def _settled(sidecar: common.Sidecar) -> bool:
    before = _events(sidecar)
    time.sleep(0.3)
    return _events(sidecar) - before < 100


if __name__ == "__main__":
    sys.exit(main())
