"""Ranks and GPUs: CUDA_VISIBLE_DEVICES reorders and hides, NVML does not."""

import pytest

from sidecar.hardware.mapping import by_rank, canonical, resolve, visible

KNOWN = ["GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000", "MIG-cccc4444-0000"]


@pytest.mark.parametrize(("value", "expected"), [
    (None, [0, 1, 2, 3]),
    ("", []),
    ("2,0", [2, 0]),
    (" 1 , 2 ", [1, 2]),
    ("0,9,1", [0]),
    ("0,-1,1", [0]),
    ("NoDevFiles", []),
    ("GPU-bbbb,GPU-aaaa2222", [2, 1]),
    ("MIG-cccc4444-0000", [3]),
    ("GPU-aaaa", []),
    ("1,1", [1]),
    ("0,", [0]),
])
def test_visible_devices_follow_cudas_rules(value: str | None, expected: list[int]) -> None:
    assert visible(value, KNOWN) == [KNOWN[index] for index in expected]


def test_uuids_are_recognised_as_torch_and_as_nvml_spell_them() -> None:
    assert canonical("AAAA1111-0000") == "GPU-aaaa1111-0000"
    assert canonical("gpu-AAAA1111-0000") == "GPU-aaaa1111-0000"
    assert resolve(["bbbb3333-0000", "GPU-AAAA1111-0000"], KNOWN) == [KNOWN[2], KNOWN[0]]


def test_a_uuid_of_another_host_resolves_to_nothing() -> None:
    assert resolve(["GPU-dddd", ""], KNOWN) == []


def test_each_rank_is_mapped_to_the_gpu_it_reported_not_to_its_number() -> None:
    assert by_rank({0: ["GPU-bbbb3333-0000"], 1: ["aaaa1111-0000"], 2: []}, KNOWN) == {0: [KNOWN[2]], 1: [KNOWN[0]]}
