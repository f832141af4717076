"""Every device name that published tables get wrong, and the ones they get right."""

import pytest

from sidecar.derive.peaks import PEAKS, dtype_of, find

BF16 = {
    "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312, "NVIDIA A800-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756, "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4, "NVIDIA H200 NVL": 835.5, "NVIDIA GH200 480GB": 989.4, "NVIDIA GH200 120GB": 989.4,
    "NVIDIA H20": 148, "NVIDIA H800": 989, "NVIDIA H800 PCIe": 756,
    "NVIDIA B200": 2250, "NVIDIA B300": 2250, "NVIDIA B300 SXM6 AC": 2250, "NVIDIA GB200": 2500, "NVIDIA GB300": 2500,
    "NVIDIA L4": 121, "NVIDIA L40": 181, "NVIDIA L40S": 362,
    "NVIDIA A10": 125, "NVIDIA A10G": 70, "NVIDIA A30": 165, "NVIDIA A40": 149.7,
    "NVIDIA GeForce RTX 3090": 71, "NVIDIA GeForce RTX 3090 Ti": 80, "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 5090": 209.5, "NVIDIA RTX A6000": 154.8, "NVIDIA RTX 6000 Ada Generation": 364,
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": 503.8,
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": 438.9,
    "AMD Instinct MI250X": 191.5, "AMD Instinct MI300X": 1307.4, "AMD Instinct MI325X": 1307.4,
    "AMD Instinct MI350X": 2300, "AMD Instinct MI355X": 2516.6, "AMD Instinct MI300X OAM": 1307.4,
    "TPU v4": 275, "TPU v5e": 197, "TPU v5p": 459, "TPU v6e": 918,
}  # fmt: skip

UNKNOWN = (
    "NVIDIA RTX A4000", "NVIDIA RTX A5000", "Quadro RTX 6000", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 3090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA RTX 4000 Ada Generation",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition", "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "AMD Instinct MI250", "AMD Instinct MI250X / MI250",
    "NVIDIA RTX PRO 6000 Blackwell", "Apple M3 Max", "cpu", "GRID A100-7C",
    "Intel(R) Xeon(R) CPU @ 2.20GHz", "NVIDIA T400", "NVIDIA A16", "NVIDIA L20", "NVIDIA T4G", "TPU v7x", "NVIDIA",
)


@pytest.mark.parametrize("name", BF16)
def test_the_dense_bf16_peak_of(name: str) -> None:
    assert find(name, "bf16") == (pytest.approx(BF16[name] * 1e12), None)
    assert find(name.upper(), "bf16")[0] == pytest.approx(BF16[name] * 1e12)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_with_a_reason_is(name: str) -> None:
    peak, reason = find(name, "bf16")
    assert peak is None
    assert reason is not None
    assert "peak_flops" in reason


@pytest.mark.parametrize(("name", "dtype", "peak"), [
    ("Tesla V100-SXM2-16GB", "fp16", 125), ("Tesla V100-PCIE-32GB", "fp16", 112), ("Tesla T4", "fp16", 65),
    ("NVIDIA A100-SXM4-80GB", "tf32", 156), ("NVIDIA A100-SXM4-80GB", "fp32", 19.5), ("NVIDIA L40S", "fp8", 733),
    ("NVIDIA H100 80GB HBM3", "fp8", 1979), ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
])  # fmt: skip
def test_other_data_types(name: str, dtype: str, peak: float) -> None:
    assert find(name, dtype)[0] == pytest.approx(peak * 1e12)


@pytest.mark.parametrize(("name", "dtype"), [
    ("NVIDIA A100-SXM4-80GB", "fp8"), ("Tesla T4", "bf16"), ("Tesla V100-SXM2-16GB", "tf32"),
])
def test_a_data_type_the_device_lacks_is_unknown(name: str, dtype: str) -> None:
    peak, reason = find(name, dtype)
    assert peak is None
    assert dtype in (reason or "")


def test_without_a_data_type_or_a_device_there_is_no_peak() -> None:
    assert find("NVIDIA L4", None)[0] is None
    assert find(None, "bf16")[0] is None
    assert find("", "bf16")[0] is None


def test_no_two_entries_are_equally_specific_for_one_name() -> None:
    for name in (*BF16, "Tesla V100-SXM2-16GB", "Tesla T4"):
        from sidecar.derive.peaks import words_of

        words = set(words_of(name))
        fitting = [p for p in PEAKS if words.issuperset(p.words) and not words & p.excluded]
        fits = sorted((len(p.words) for p in fitting), reverse=True)
        assert len(fits) == 1 or fits[0] > fits[1], name


@pytest.mark.parametrize(("name", "short"), [
    ("torch.bfloat16", "bf16"), ("bf16-mixed", "bf16"), ("float32", "fp32"), ("16-mixed", "fp16"), ("int4", None),
])  # fmt: skip
def test_data_types_by_any_of_their_names(name: str, short: str | None) -> None:
    assert dtype_of(name) == short
