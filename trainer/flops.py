"""What one trained token costs, and what the device could do at best: the two halves of MFU.

Given: a model, or a shape of work. Hands on: FLOPs. The division is the sidecar's business, and the console's.
"""

import time
from pathlib import Path

import torch

from trainer.model import GPT

PEAK_SECONDS = 0.3
"""How long the measurement of the peak may take; the best of about fifty products is steady within a few percent."""


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


def measured_peak_flops(rows: int, width: int, dtype: torch.dtype, seconds: float = PEAK_SECONDS) -> float:
    """FLOP/s of the best matrix product seen on this CPU, with the threads torch has now.

    No table knows a CPU's peak: clock, vector width and the number of threads decide. So we ask it: products of
    the model's own shapes (rows x width x 4 width, as in the MLP) and a square one that suits any BLAS; best of all.
    """
    shapes = ((rows, width, 4 * width), (rows, 4 * width, width), (1024, 1024, 1024))
    best = 0.0
    for m, k, n in shapes:
        a, b, out = torch.rand(m, k).to(dtype), torch.rand(k, n).to(dtype), torch.empty(m, n, dtype=dtype)
        end = time.perf_counter() + seconds / len(shapes)
        while (start := time.perf_counter()) < end:
            torch.mm(a, b, out=out)
            best = max(best, 2.0 * m * k * n / (time.perf_counter() - start))
    return best


def cpu_name() -> str:
    """The processor as Linux names it, else "cpu"."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "cpu"
