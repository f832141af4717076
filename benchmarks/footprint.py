"""What a sidecar weighs beside a training run, and what importing the client costs.

Proves: without W&B the sidecar stays under 90 MB resident and 2 % of a core while a trainer makes 10 steps/s and the
hardware is sampled once a second; ``import sidecar`` and ``sidecar.init`` take at most 60 ms and load, beyond the
standard library, only pyzmq and msgspec.

    python -m benchmarks.footprint              # about half a minute
    python -m benchmarks.footprint --seconds 120
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import common

STEPS_PER_SECOND = 10
SETTLE_SECONDS = 2.0
IMPORT_RUNS = 15

IMPORT = """
import sys, time
began = time.perf_counter()
before = set(sys.modules)
{more}
seconds = time.perf_counter() - began
roots = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
print(seconds, *roots)
import os
os._exit(0)
"""


def memory_mib(pid: int) -> tuple[float, float]:
    """(resident, proportional) MiB of a process and its children, as the kernel counts them."""
    resident = shared_out = 0
    for one in [pid, *descendants(pid)]:
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                resident += int(line.split()[1])
            elif line.startswith("Pss:"):
                shared_out += int(line.split()[1])
    return resident / 1024, shared_out / 1024


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [found for child in children for found in [child, *descendants(child)]]


def measure_sidecar(seconds: float) -> dict[str, float]:
    import sidecar as client

    with common.sidecar_alive() as sidecar:
        run = client.init("benchmark", endpoint=sidecar.endpoint, total_steps=10_000)
        number, cpu_began, began = 0, 0.0, 0.0
        deadline = time.monotonic() + SETTLE_SECONDS + seconds
        while time.monotonic() < deadline:
            run.step(number, **common.step_arguments(number))
            number += 1
            if number == int(SETTLE_SECONDS * STEPS_PER_SECOND):
                cpu_began, began = common.cpu_seconds(sidecar.pid), time.monotonic()
            time.sleep(1 / STEPS_PER_SECOND)
        share = 100 * (common.cpu_seconds(sidecar.pid) - cpu_began) / (time.monotonic() - began)
        resident, proportional = memory_mib(sidecar.pid)
        run.finish()
    return {"cpu_percent": share, "resident_mib": resident, "proportional_mib": proportional, "steps": number}


def import_seconds(more: str) -> tuple[float, float, set[str]]:
    """Median and fastest of fresh interpreters that run ``more``, and packages loaded beyond the standard library."""
    times, roots = [], set()
    for _ in range(IMPORT_RUNS):
        done = subprocess.run([sys.executable, "-c", IMPORT.format(more=more)], env=common.environment(),
                              capture_output=True, text=True, check=True, cwd=common.REPOSITORY)  # fmt: skip
        seconds, *loaded = done.stdout.split()
        times.append(float(seconds))
        roots.update(loaded)
    return statistics.median(times), min(times), roots


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the sidecar is watched (default 20)")
    options = parser.parse_args()
    common.print_machine()
    needed, _, allowed = import_seconds("import zmq, msgspec")
    seconds, fastest, roots = import_seconds("import sidecar; sidecar.init")
    print(
        f"import sidecar; sidecar.init: fastest {1e3 * fastest:.1f} ms; pyzmq and msgspec alone {1e3 * needed:.1f} ms"
    )
    common.verdict("import sidecar; sidecar.init loaded", 1e3 * seconds, 60, "ms")
    print(f"packages loaded: {' '.join(sorted(roots))}")
    extra = len(roots - allowed - {"sidecar"})
    common.verdict("packages beyond pyzmq, msgspec and what these two load", extra, 0, "")
    with common.folder() as folder:
        call = f'import sidecar; run = sidecar.init("benchmark", endpoint="ipc://{folder}/events")'
        begun, _, _ = import_seconds(call)
    print(f"import and the first sidecar.init (16 MiB ring, backed and touched): {1e3 * begun:.1f} ms")
    found = measure_sidecar(options.seconds)
    print(f"sidecar at {STEPS_PER_SECOND} steps/s of 12 metrics, sampled every second, for {options.seconds:.0f} s "
          f"({found['steps']:.0f} steps); proportional {found['proportional_mib']:.1f} MiB")  # fmt: skip
    common.verdict("resident memory", found["resident_mib"] * 2**20 / 1e6, 90, "MB")
    common.verdict("CPU", found["cpu_percent"], 2.0, "% of a core")
    common.verdict("ratio of the sidecar's CPU to one core", found["cpu_percent"] / 100, 0.02, "")
    common.print_load_after()
    return 0


if __name__ == "__main__":
    sys.exit(main())
