"""Which run is this, and which part of it am I? Answered alike on every rank, without talking to anybody.

Given: the environment and the arguments of init. Hands on: run id, rank, world size.
Never: asks the network, and never gives two launches the same id by accident.
"""

import os
from collections.abc import Mapping

from sidecar.ring import process_started_seconds

_inits_total = 0  # How many runs this process has begun; the n-th init is the same run on every rank.
_random_launch_id = ""


def next_init_number() -> int:
    """1 for the first init of this process, 2 for the next, ..."""
    global _inits_total
    _inits_total += 1
    return _inits_total


def forget_last_init() -> None:
    """The last run was an implicit one that nobody asked for: the next one takes its number."""
    global _inits_total
    _inits_total = max(0, _inits_total - 1)


def launch_id(environ: Mapping[str, str]) -> str:
    """SIDECAR_LAUNCH_ID > TORCHELASTIC_RUN_ID > Slurm job and step > random, fixed for this process."""
    if given := environ.get("SIDECAR_LAUNCH_ID"):
        return given
    if elastic := environ.get("TORCHELASTIC_RUN_ID"):
        return elastic if elastic != "none" else _unnamed_torchrun(environ)
    if job := environ.get("SLURM_JOB_ID"):
        return f"slurm-{job}.{environ.get('SLURM_STEP_ID', '0')}"
    global _random_launch_id
    _random_launch_id = _random_launch_id or os.urandom(8).hex()
    return _random_launch_id


def _unnamed_torchrun(environ: Mapping[str, str]) -> str:
    """torchrun without --rdzv-id says "none" each time: tell launches apart by the agent, on one node our parent."""
    address = f"{environ.get('MASTER_ADDR', '')}:{environ.get('MASTER_PORT', '')}"
    if environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return f"torchrun-{address}"
    agent = os.getppid()
    return f"torchrun-{address}-{agent}-{process_started_seconds(agent)}"


def run_id(
    given: str | None, environ: Mapping[str, str], init_number: int, project: str, name: str | None, stage: str | None
) -> str:
    """The argument; else SIDECAR_RUN_ID (ID, ID-2, ID-3 ...); else computed from the launch and what init was told."""
    if given:
        return given
    if named := environ.get("SIDECAR_RUN_ID"):
        return named if init_number == 1 else f"{named}-{init_number}"
    import hashlib  # Only here: it costs an importing trainer six milliseconds.

    facts = "\0".join([launch_id(environ), project, name or "", stage or "", str(init_number)])
    digest = hashlib.blake2s(facts.encode(errors="surrogatepass"), digest_size=5).hexdigest()
    return f"{_slug(name or stage or project)}-{digest}"


def rank(environ: Mapping[str, str]) -> int:
    return _first_int(environ, ("RANK", "SLURM_PROCID"), 0)


def local_rank(environ: Mapping[str, str]) -> int:
    return _first_int(environ, ("LOCAL_RANK", "SLURM_LOCALID"), 0)


def world_size(environ: Mapping[str, str]) -> int:
    return max(1, _first_int(environ, ("WORLD_SIZE", "SLURM_NTASKS"), 1))


def _first_int(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        value = environ.get(name, "")
        if value.isdecimal():  # Not isdigit: int() refuses some of what that calls digits.
            return int(value)
    return default


def _slug(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)[:40].strip("-.")
    return kept or "run"
