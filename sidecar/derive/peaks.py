"""Peak FLOP/s of one device, dense, by device name and data type.

Given: a name as torch or NVML reports it. Hands on: FLOP/s, or None with the reason.
Never: matches a part of a word ("A4000" is not an "A40", "L40" is not an "L4"), guesses a neighbour, or gives a
figure with sparsity.

A name is split into words. An entry fits when its words are all there and none of its excluded words is; the most
specific entry that fits wins. FP16 and BF16 are tensor rates with FP32 accumulation. A torch device of an MI250X is
one of its two dies. Figures are from vendors' data sheets.
"""

import re
from typing import NamedTuple

T = 1e12


class Peak(NamedTuple):
    words: tuple[str, ...]
    excluded: frozenset[str]
    flops: dict[str, float]
    """By data type, TFLOP/s."""


def _peak(name: str, fp32: float | None, tf32: float | None, fp16: float | None, bf16: float | None,
          fp8: float | None, *, without: str = "") -> Peak:
    rates = {"fp32": fp32, "tf32": tf32, "fp16": fp16, "bf16": bf16, "fp8": fp8}
    known = {dtype: rate for dtype, rate in rates.items() if rate is not None}
    return Peak(tuple(name.split()), frozenset(without.split()), known)


# Laptop and mobile parts carry the desktop name and run at other rates: unknown.
_NOT = "laptop max mobile d super"

PEAKS = (
    _peak("v100", 14.0, None, 112, None, None),
    _peak("v100 pcie", 14.0, None, 112, None, None),
    _peak("v100 sxm2", 15.7, None, 125, None, None),
    _peak("v100 sxm3", 15.7, None, 125, None, None),
    _peak("t4", 8.1, None, 65, None, None),
    _peak("a10", 31.2, 62.5, 125, 125, None),
    _peak("a10g", 35, 35, 70, 70, None),
    _peak("a30", 10.3, 82, 165, 165, None),
    _peak("a40", 37.4, 74.8, 149.7, 149.7, None),
    _peak("a100", 19.5, 156, 312, 312, None),
    _peak("a800", 19.5, 156, 312, 312, None),
    _peak("h100", 67, 494.7, 989.4, 989.4, 1979),
    _peak("h100 pcie", 51.2, 378, 756, 756, 1513),
    _peak("h100 nvl", 60, 417.5, 835.5, 835.5, 1671),
    _peak("h200", 67, 494.7, 989.4, 989.4, 1979),
    _peak("h200 nvl", 60, 418, 835.5, 835.5, 1671),
    _peak("gh200", 67, 494.7, 989.4, 989.4, 1979),
    _peak("h20", 44, 74, 148, 148, 296),
    _peak("h800", 67, 495, 989, 989, 1979),
    _peak("h800 pcie", 51, 378, 756, 756, 1513),
    _peak("b200", 80, 1125, 2250, 2250, 4500),
    _peak("b300", 80, 1125, 2250, 2250, 4500),
    _peak("gb200", 80, 1250, 2500, 2500, 5000),
    _peak("gb300", 80, 1250, 2500, 2500, 5000),
    _peak("l4", 30.3, 60, 121, 121, 242),
    _peak("l40", 90.5, 90.5, 181, 181, 362),
    _peak("l40s", 91.6, 183, 362, 362, 733),
    _peak("rtx 3090", 35.6, 35.6, 71, 71, None, without=_NOT),
    _peak("rtx 3090 ti", 40, 40, 80, 80, None, without=_NOT),
    _peak("rtx 4090", 82.6, 82.6, 165.2, 165.2, 330.3, without=_NOT),
    _peak("rtx 5090", 104.8, 104.8, 209.5, 209.5, 419, without=_NOT),
    _peak("rtx a6000", 38.7, 77.4, 154.8, 154.8, None, without=_NOT),
    _peak("rtx 6000 ada", 91.1, 182, 364, 364, 728, without=_NOT),
    _peak("rtx pro 6000 blackwell workstation", 126, 252, 503.8, 503.8, 1008, without="laptop server mobile"),
    _peak("rtx pro 6000 blackwell max q workstation", 110, 219, 438.9, 438.9, 878, without="laptop server mobile"),
    _peak("mi250x", 23.95, None, 191.5, 191.5, None, without="mi250"),  # ROCm calls both cards "MI250X / MI250".
    _peak("mi300x", 163.4, 653.7, 1307.4, 1307.4, 2614.9),
    _peak("mi325x", 163.4, 653.7, 1307.4, 1307.4, 2614.9),
    _peak("mi350x", None, None, 2300, 2300, 4600),
    _peak("mi355x", 157.3, None, 2516.6, 2516.6, 5033),
    _peak("tpu v4", None, None, None, 275, None),
    _peak("tpu v5e", None, None, None, 197, None),
    _peak("tpu v5p", None, None, None, 459, None),
    _peak("tpu v6e", None, None, None, 918, 918),
)

DTYPES = {
    "bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "half": "fp16", "fp32": "fp32",
    "float32": "fp32", "float": "fp32", "tf32": "tf32", "tensorfloat32": "tf32", "fp8": "fp8", "float8": "fp8",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "16": "fp16", "32": "fp32",
}


def dtype_of(name: str) -> str | None:
    """The short name (fp32, tf32, fp16, bf16, fp8) of a data type, a torch one included; None if not known."""
    word = name.strip().lower().removeprefix("torch.")
    return DTYPES.get(word) or DTYPES.get(re.sub(r"[-_](mixed|true)$", "", word))


def words_of(name: str) -> list[str]:
    """The name's words: "NVIDIA H100 80GB HBM3" -> nvidia h100 80gb hbm3; "A100-SXM4-40GB" -> a100 sxm4 40gb."""
    return re.findall(r"[a-z0-9]+", name.lower())


def find(device_name: str | None, dtype: str | None) -> tuple[float | None, str | None]:
    """Peak FLOP/s and None, or None and the reason."""
    if not device_name:
        return None, "the device is not known: give model_facts device_name or peak_flops"
    words = set(words_of(device_name))
    if "cpu" in words:
        return None, "no peak is known for a CPU: measure one and give model_facts peak_flops"
    if words & {"mig", "grid", "vgpu"} or any(re.fullmatch(r"\d+[acq]", word) for word in words):
        return None, f"{device_name!r} is a slice of a GPU: give model_facts peak_flops"
    fits = [peak for peak in PEAKS if words.issuperset(peak.words) and not words & peak.excluded]
    if not fits:
        return None, f"no peak FLOP/s known for {device_name!r}: give model_facts peak_flops"
    if dtype is None:
        return None, "the data type of the computation is not known: give model_facts dtype"
    best = max(fits, key=lambda peak: len(peak.words))
    rate = best.flops.get(dtype)
    if rate is None:
        return None, f"{device_name!r} has no known dense rate for {dtype}: give model_facts peak_flops"
    return rate * T, None
