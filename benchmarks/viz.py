"""What drawing costs: the pictures of 5 runs x 10,000 steps, and the film of 100,000 steps x 8 ranks.

    python -m benchmarks.viz [--quick] [--browser]

Given: nothing; it writes journals of its own into a temporary folder. Hands on: a table on standard output.
Never: touches the user's data. Goals: pictures in 10 s and 300 MB; the film's page in 8 MB, drawn within 3 s.
"""

import argparse
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sidecar import wire
from sidecar.journal import Chunk
from sidecar.store import Store

SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
CHILD = (
    "import resource, sys, time; began = time.perf_counter(); from sidecar.cli import main; code = main(sys.argv[1:]);"
    "print(f'{time.perf_counter() - began:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}');"
    "sys.exit(code)"
)


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


def main() -> None:
    parser = argparse.ArgumentParser(description="What drawing costs.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--browser", action="store_true", help="also time the film in headless Chromium (playwright)")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="sidecar-viz-") as folder:
        base = Path(folder)
        cases = {"5 runs x 10,000 steps": (5, 10_000, 1), "film, 100,000 steps x 8 ranks": (1, 100_000, 8),
                 "1 run x 100,000 steps": (1, 100_000, 1), "1 run x 1,000,000 steps": (1, 1_000_000, 1)}
        drawn = f" {'film in s':>10} {'scrub ms':>9} {'browser CPU s':>14}" if options.browser else ""
        print(f"{'case':<32} {'seconds':>8} {'MB memory':>10} {'MB page':>8}{drawn}")
        for number, (name, (runs, steps, ranks)) in enumerate(cases.items()):
            directory, out = base / str(number), base / f"{number}.html"
            for run in range(runs):
                write_run(directory, f"r{run}", steps // share, ranks)
            seconds, memory, size = draw(directory, out)
            shown = "{:>11.1f} {:>9.0f} {:>14.1f}".format(*film(out)) if options.browser else ""
            print(f"{name:<32} {seconds:>8.1f} {memory:>10.0f} {size:>8.2f}{shown}", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
