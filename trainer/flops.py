"""What one trained token costs, and what the device could do at best: the two halves of MFU.

Given: a model, or the shape of a matrix product. Hands on: FLOPs. The sidecar and the console do the division.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch

from sidecar.client.compat import calculate_mfu
from trainer.model import GPT

PEAK_SECONDS = 0.3
"""How long the measurement of the peak takes; it is steady within a few percent."""
ROWS_MAX, WIDTH_MAX = 2048, 1024
"""Larger products are no faster, but take memory and time."""


def flops_per_token(model: GPT) -> float:
    """FLOPs of forward and backward for one token: 6 N + 12 L H Q T, the full-attention convention.

    N: weights in matrix products (the embedding's lookup is none, the head is one), L layers, H heads of size Q,
    T tokens of context. Each weight is multiplied and added once forward and twice backward: 6. Attention does two
    products of H Q T forward and four backward: 12. Source: PaLM (Chowdhery et al. 2022), appendix B. The causal mask
    is not credited; the optimizer, norms and softmax are not counted.
    """
    config = model.config
    attention = 12 * config.n_layer * config.n_head * config.head_dim * config.seq_len
    return 6.0 * model.matmul_params() + attention


def forward_flops(model: GPT, tokens: int) -> float:
    """A third of a training step: the backward pass costs twice as much as the forward pass."""
    return flops_per_token(model) * tokens / 3


def peak_flops(facts: dict[str, Any]) -> float | None:
    """Of one device: as measured, or as the sidecar's table has it; None if it is not known."""
    if "peak_flops" in facts:
        return float(facts["peak_flops"])
    percent = calculate_mfu(1.0, 1.0, facts["device_name"], dtype=facts["dtype"])  # Of one FLOP per second.
    return 100 / percent if percent else None


def measured_peak_flops(rows: int, width: int, dtype: torch.dtype, seconds: float = PEAK_SECONDS) -> float:
    """FLOP/s that this CPU could do at best with torch's threads as they are: one thread's best product, times threads.

    No table knows a CPU's peak: clock and vector width decide. So we ask it, with products of the model's own shapes
    (rows x width x 4 width, as in the MLP) and a square one. One thread, by the clock of its own CPU time, because
    whoever else is at work on the machine just now must not make the peak look low and MFU impossibly high: with two
    busy loops beside it, two threads by the wall clock were seen to reach a third of their speed, this figure 95 %.
    """
    rows, width = min(rows, ROWS_MAX), min(width, WIDTH_MAX)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shapes = ((rows, width, 4 * width), (rows, 4 * width, width), (512, 512, 512))
        return threads * max(_best_product(*shape, dtype, seconds / len(shapes)) for shape in shapes)
    finally:
        torch.set_num_threads(threads)


def _best_product(m: int, k: int, n: int, dtype: torch.dtype, seconds: float) -> float:
    """FLOP per second of CPU time in the fastest (m, k) x (k, n) product, over about ``seconds`` of trying."""
    a, b, out = (torch.ones(*shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))  # No random number moves.
    fastest = math.inf
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == math.inf:
        start = time.thread_time()
        torch.mm(a, b, out=out)
        fastest = min(fastest, time.thread_time() - start or math.inf)
    return 2.0 * m * k * n / fastest


def cpu_name() -> str:
    """The processor as Linux names it, else "cpu"."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "cpu"
