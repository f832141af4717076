"""What drawing costs: the pictures of 5 runs x 10,000 steps, and the film of 100,000 steps x 8 ranks.

Proves: the pictures of 5 runs take at most 10 s and 300 MB; the film's page has at most 8 MB and is drawn within 3 s.

    python -m benchmarks.viz                # about a minute and a half
    python -m benchmarks.viz --quick        # with a tenth of the steps
    python -m benchmarks.viz --browser      # and the film in headless Chromium (needs playwright)

Given: nothing; it writes journals of its own into a temporary folder. Hands on: a table on standard output.
Never: touches the user's data.
"""

import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common
from sidecar import wire
from sidecar.journal import Chunk
from sidecar.store import Store

SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
CASES = ((5, 10_000, 1), (1, 100_000, 8), (1, 100_000, 1), (1, 1_000_000, 1))
"""(runs, steps, ranks): the first is the goal of the pictures, the second of the film."""
CHILD = (
    "import resource, sys, time; began = time.perf_counter(); from sidecar.cli import main; code = main(sys.argv[1:]);"
    "print(f'{time.perf_counter() - began:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}');"
    "sys.exit(code)"
)


class Drawn(NamedTuple):
    name: str
    seconds: float
    memory_mb: float
    page_mb: float
    film_seconds: float | None
    """None: no browser was asked for."""


def write_run(directory: Path, run_id: str, steps: int, ranks: int) -> None:
    """A journal as the sidecar writes it: frames of 128 events of one rank after another."""
    store = Store(directory)
    store.prepare()
    journal = store.journal(run_id)
    config = {"n_layer": 12, "n_embd": 768, "batch_size": 32, "learning_rate": 3e-4}
    facts = {"flops_per_token": 6e8, "peak_flops": 6e13, "peak_source": "override"}
    for rank in range(ranks):
        hello = wire.Hello(run_id=run_id, rank=rank, session=rank + 1, time_ns=START, mono_ns=SECOND, project="bench",
                           stage="pretrain", world_size=ranks, config=config, model_facts=facts)
        journal.greet(hello, START)
    noise = random.Random(run_id)
    seqs = [0] * ranks
    for first in range(0, steps, 128):
        chunks = []
        for rank in range(ranks):
            records = [wire.encode_event(event) for step in range(first, min(steps, first + 128))
                       for event in events(step, steps, rank, noise)]
            for at in range(0, len(records), 128):
                part = records[at : at + 128]
                chunks.append(Chunk(rank + 1, seqs[rank], START + first * SECOND, part))
                seqs[rank] += len(part)
        journal.append(chunks)
    journal.close()


def events(step: int, steps: int, rank: int, noise: random.Random) -> list[wire.AnyEvent]:
    at = step * SECOND + int(noise.random() * 2e7) + (3 * SECOND if (step, rank) == (steps // 2, 0) else 0)
    loss = 3 + 5 * math.exp(-4 * step / steps) + noise.gauss(0, 0.03)
    metrics: wire.Metrics = {"train/loss": loss, "train/learning_rate": 3e-4, "train/grad_norm": 1.0,
                             "train/num_tokens": 16384, "train/num_samples": 32}
    made: list[wire.AnyEvent] = [wire.Step(START + at, SECOND + at, step, metrics)]
    if rank == 0 and step and step % max(1, steps // 10) == 0:
        made.append(wire.Log(START + at, SECOND + at, step, {"val/accuracy": step / steps, "val/loss": loss}))
    return made


def draw(directory: Path, out: Path) -> tuple[float, float, float]:
    """(seconds, MB of memory at most, MB of page), in a process of its own."""
    command = [sys.executable, "-c", CHILD, "viz", "--dir", str(directory), "-o", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    return float(said[0]), float(said[1]), out.stat().st_size / 1e6


def film(out: Path) -> tuple[float, float, float]:
    """(seconds from opening the page to the film drawn, ms from moving its scrubber to the new picture, seconds of
    processor time that all of Chromium took until then), headless and with software WebGL."""
    import shutil

    import psutil
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page()
        page.goto("about:blank")
        spent = _cpu_seconds(psutil.Process())
        began = time.perf_counter()
        page.goto(out.as_uri() + "#film", wait_until="commit")
        page.wait_for_selector("#plot-film[data-ready]", timeout=60_000)
        seconds = time.perf_counter() - began
        moved = float(page.evaluate(SCRUB))
        spent = _cpu_seconds(psutil.Process()) - spent
        browser.close()
    return seconds, moved, spent


SCRUB = """() => new Promise(done => {
  const began = performance.now(), scrubber = document.querySelector("[data-film=position]");
  scrubber.value = "500";
  scrubber.dispatchEvent(new Event("input", {bubbles: true}));
  const look = () => document.querySelector("#plot-film").dataset.from === "0" ? requestAnimationFrame(look)
    : requestAnimationFrame(() => done(performance.now() - began));
  requestAnimationFrame(look);
})"""


def _cpu_seconds(process: Any) -> float:
    """Of everything this process started that is still there."""
    return sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


def measure(base: Path, runs: int, steps: int, ranks: int, *, browser: bool) -> Drawn:
    """Write the journals, draw them, print a line."""
    name = f"{runs} run{'s' * (runs > 1)} x {steps:,} steps x {ranks} rank{'s' * (ranks > 1)}"
    out = base.with_suffix(".html")
    for run in range(runs):
        write_run(base, f"r{run}", steps, ranks)
    seconds, memory, size = draw(base, out)
    drawn = film(out) if browser else None
    shown = "{:>11.1f} {:>9.0f} {:>14.1f}".format(*drawn) if drawn else ""
    print(f"{name:<32} {seconds:>8.1f} {memory:>10.0f} {size:>8.2f}{shown}", flush=True)
    return Drawn(name, seconds, memory, size, drawn[0] if drawn else None)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--browser", action="store_true", help="also time the film in headless Chromium (playwright)")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    common.print_machine()
    with tempfile.TemporaryDirectory(prefix="sidecar-viz-") as folder:
        heads = f" {'film in s':>10} {'scrub ms':>9} {'browser CPU s':>14}" if options.browser else ""
        print(f"{'case':<32} {'seconds':>8} {'MB memory':>10} {'MB page':>8}{heads}")
        found = [measure(Path(folder) / str(number), runs, steps // share, ranks, browser=options.browser)
                 for number, (runs, steps, ranks) in enumerate(CASES)]  # fmt: skip
    pictures, page, *_ = found
    common.verdict(f"pictures of {pictures.name}", pictures.seconds, 10.0, "s")
    common.verdict("the same, memory", pictures.memory_mb, 300.0, "MB")
    common.verdict(f"page of the film of {page.name}", page.page_mb, 8.0, "MB")
    if page.film_seconds is not None:
        common.verdict("the same, from opening it to the film drawn", page.film_seconds, 3.0, "s")
    common.print_load_after()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
