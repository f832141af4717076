"""``sidecar demo``: a made-up run, sent by the real client, to look around in."""

import argparse
import os

from sidecar.commands import options as shared

DESCRIPTION = "Train nothing, show everything: a synthetic run on the live page, in /metrics and in `sidecar top`."
EXAMPLES = ["sidecar demo", "sidecar demo --steps 2000 --port 0"]

SCRIPT = """
import math, random, time
import sidecar
steps, pause = {steps}, {pause}
run = sidecar.init(project="demo", name="made-up", stage="pretrain", total_steps=steps, config={{"synthetic": True}},
                   model_facts={{"flops_per_token": 6e6, "peak_flops": 2.4e11, "peak_source": "made up"}})
random.seed(1)

def train():
    for step in range(1, steps + 1):
        time.sleep(pause * random.uniform(0.8, 1.2))
        loss = 2.2 + 6.0 * math.exp(-step / 150) + random.gauss(0, 0.04)
        dataset = "web" if random.random() < 0.7 else "books"
        run.dataset(dataset, samples=16, tokens=2048)
        run.step(step, loss=loss, learning_rate=3e-4 * min(1.0, step / 50), grad_norm=random.uniform(0.5, 1.5),
                 tokens=2048, samples=16)
        if step % 100 == 0:
            with run.phase("evaluation"):
                time.sleep(0.3)
            run.log({{"val/loss": loss + 0.1}}, step=step)

try:
    train()
except KeyboardInterrupt:
    pass  # Whoever has looked around enough has not met a failure.
run.finish()
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=shared.number(int, 1), default=600, metavar="N",
                        help="how many steps (default 600, one minute)")
    parser.add_argument("--step-seconds", type=shared.number(float, 0), default=0.1, metavar="S",
                        help="how long each is (default 0.1)")
    shared.add(parser, "dir", "port", "sinks")


def run(options: argparse.Namespace) -> int:
    from sidecar.interpreter import python
    from sidecar.launch import Launch

    loaded = shared.load(options)
    shared.check_sinks(loaded.config)
    script = SCRIPT.format(steps=options.steps, pause=options.step_seconds)
    return Launch(loaded, python(script), dict(os.environ)).run()
