"""A training process without a model: ``python small_trainer.py ENDPOINT``. Emits every kind of record until ended."""

import math
import signal
import sys
import time

import sidecar


def main(endpoint: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run = sidecar.init(
        project="deploy", name="small", stage="pretrain", endpoint=endpoint, total_steps=100_000,
        model_facts={"params": 10**6, "flops_per_token": 6e6, "causal_flops_per_token": 5e6, "peak_flops": 1e12,
                     "peak_source": "measured", "layers": 4, "heads": 4, "head_dim": 16, "seq_len": 128,
                     "dtype": "float32"},
    )
    for step in range(100_000):
        with run.phase("forward"):
            time.sleep(0.03)
        with run.phase("backward"):
            time.sleep(0.02)
        run.dataset("books", samples=3, tokens=384)
        run.dataset("code", samples=1, tokens=128)
        loss = 4.0 * math.exp(-step / 1000)
        run.step(step, loss=loss, learning_rate=1e-3, grad_norm=1.0, tokens=512, samples=4, epoch=step / 1000)
        if step % 20 == 0:
            with run.phase("evaluation"):
                run.log({"val/loss": loss + 0.1}, step=step)
            run.checkpoint(step, seconds=0.01, bytes=1000, name="latest")


if __name__ == "__main__":
    main(sys.argv[1])
