"""What a launch and its run are called, before any process of it exists.

Given: the environment, a run id where one was chosen. Hands on: run id and launch id, the same on every node where they
can be known to belong together.
Never: takes two launches for one: torchrun's ``--rdzv-id`` is often the same word every day, so it does not count.
"""

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Identity(NamedTuple):
    run_id: str
    launch_id: str


def identify(run_id: str | None, environ: Mapping[str, str], now_seconds: float) -> Identity:
    """The ids given; else those of the Slurm step, since ``srun`` starts us once for each task; else new ones."""
    step = _slurm_step(environ)
    launch_id = environ.get("SIDECAR_LAUNCH_ID") or step or secrets.token_hex(8)
    return Identity(run_id or step or new_run_id(now_seconds), launch_id)


def new_run_id(now_seconds: float) -> str:
    """For people to read and say, and to sort by start: 20261121-181512-a1b2c3 (UTC)."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_seconds)) + "-" + secrets.token_hex(3)


def lacks_common_id(run_id: str | None, command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Does torchrun start this command on several nodes, which cannot know each other's run id?"""
    if run_id or _slurm_step(environ):
        return False
    words = [part for word in command for part in word.split("=", 1)]
    after = dict(zip(words, words[1:], strict=False))
    return after.get("--nnodes", environ.get("PET_NNODES", "1")) not in ("1", "1:1")


def _slurm_step(environ: Mapping[str, str]) -> str | None:
    """None outside a step, and for a step of one task: in an interactive shell each launch is one of its own."""
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID")
    if not job or not step or environ.get("SLURM_NTASKS", "1") == "1":
        return None
    # Job numbers repeat between clusters, whose runs may share a project at W&B.
    cluster = "\0".join(environ.get(name, "") for name in ("SLURM_CLUSTER_NAME", "SLURM_SUBMIT_HOST"))
    digest = hashlib.blake2s(cluster.encode(errors="surrogatepass"), digest_size=3).hexdigest()
    return f"slurm-{job}.{step}-{digest}"
