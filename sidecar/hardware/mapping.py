"""Which GPU is which: from what a training process sees to NVML's UUIDs.

Given: UUIDs a rank reported, or CUDA_VISIBLE_DEVICES and a local rank, and the UUIDs that NVML lists in its order.
Hands on: UUIDs. Never: guesses (an entry that matches no GPU, or several, resolves to nothing).

NVML ignores CUDA_VISIBLE_DEVICES, so a rank's local index is not NVML's index.
"""

from collections.abc import Mapping, Sequence


def canonical(uuid: str) -> str:
    """The spelling NVML uses: "GPU-" or "MIG-" and lower-case hexadecimal. torch reports it without the prefix."""
    prefix, _, rest = uuid.strip().partition("-")
    if prefix.upper() in ("GPU", "MIG"):
        return f"{prefix.upper()}-{rest.lower()}"
    return f"GPU-{uuid.strip().lower()}"


def resolve(reported: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those of ``known`` that a rank's ``Hello.gpu_uuids`` name, in the rank's order; unknown ones are left out."""
    found = (_match(uuid, known) for uuid in reported)
    return [uuid for uuid in found if uuid is not None]


def visible(cuda_visible_devices: str | None, known: Sequence[str]) -> list[str]:
    """The UUIDs a process with this CUDA_VISIBLE_DEVICES sees, in its own numbering.

    ``known``: NVML's UUIDs in PCI bus order (NVML's own; the same as CUDA_DEVICE_ORDER=PCI_BUS_ID). As in the CUDA
    programming guide, entries are indices or UUID prefixes, and the first invalid one hides itself and all after it.
    """
    if cuda_visible_devices is None:
        return list(known)
    seen: list[str] = []
    for entry in cuda_visible_devices.split(","):
        word = entry.strip()
        if word.lstrip("+").isdecimal():
            uuid = known[int(word)] if int(word) < len(known) else None
        else:
            uuid = _match(word, known)
        if uuid is None or uuid in seen:
            break
        seen.append(uuid)
    return seen


def by_rank(reported: Mapping[int, Sequence[str]], known: Sequence[str]) -> dict[int, list[str]]:
    """rank -> NVML's UUIDs of the GPUs it reported. Ranks without any are absent."""
    resolved = {rank: resolve(uuids, known) for rank, uuids in reported.items()}
    return {rank: uuids for rank, uuids in resolved.items() if uuids}


def _match(word: str, known: Sequence[str]) -> str | None:
    if not word.strip():
        return None
    wanted = canonical(word)
    matches = [uuid for uuid in known if canonical(uuid).startswith(wanted)]
    return matches[0] if len(matches) == 1 else None
