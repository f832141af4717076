"""This process' rank and device, and how ranks add up their numbers.

    torchrun --nproc_per_node=2 -m trainer pretrain      (gloo on CPUs, nccl on GPUs)

Given: torchrun's RANK, LOCAL_RANK and WORLD_SIZE. Hands on: a World for the length of a run.
"""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import UserError, as_user_error

THREADS_MAX = 8  # A model of the default size gains nothing from more, and the sidecar needs some CPU, too.


@dataclass(frozen=True)
class World:
    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_over_ranks(self, *values: float) -> list[float]:
        """Each value added up over all ranks, in double precision."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def loss_scales(self, counts: Sequence[int | None]) -> Sequence[float | Tensor]:
        """Factors for each micro-batch's mean loss, so that the gradient, summed over micro-batches and averaged over
        ranks by DDP, is that of the mean over all targets of all ranks.

        ``counts``: targets of each micro-batch; None: all have the same number, on all ranks.
        """
        if counts[0] is None:
            return [1.0 / len(counts)] * len(counts)
        if self.size == 1:
            return [count / max(1, sum(counts)) for count in counts]  # type: ignore[arg-type, operator]
        on_gpu = self.device.type == "cuda"  # There the host waits for nothing: it copies from pinned memory.
        mine = torch.tensor(counts, dtype=torch.float64, pin_memory=on_gpu).to(self.device, non_blocking=True)
        total = mine.sum()
        dist.all_reduce(total)
        return list((mine * self.size / total.clamp(min=1)).float())

    def gather(self, value: Tensor) -> list[Tensor]:
        """One CPU tensor from every rank, in the order of ranks; the tensors must have one shape."""
        if self.size == 1:
            return [value]
        mine = value.to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.cpu() for part in parts]


@contextmanager
def process_group(device: str = "auto", threads: int | None = None) -> Iterator[World]:
    """Join the process group if there is one, and leave it at the end. Raises UserError if the device is not there or
    runs out of memory, or if the ranks cannot find each other."""
    defaults = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}
    rank, local_rank, size = (int(os.environ.get(name, default)) for name, default in defaults.items())
    world = World(rank, local_rank, size, _own_device(device, rank, local_rank))
    torch.set_num_threads(threads or _thread_count())
    if size > 1:
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise UserError(
                f"WORLD_SIZE is {size}, but {missing[0]} is not set",
                "start the ranks with torchrun, or unset WORLD_SIZE",
            )
        on_gpu = world.device.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", device_id=world.device if on_gpu else None)
    try:
        yield world
        if size > 1:
            dist.barrier()  # A rank that leaves while another still talks makes gloo abort the process at its exit.
    except Exception as error:
        if explained := as_user_error(error, world.device):
            raise explained from error
        raise
    finally:
        if size > 1:
            gc.collect()  # DDP sits in reference cycles that would keep the group's threads alive until then.
            dist.destroy_process_group()


def _own_device(device: str, rank: int, local_rank: int) -> torch.device:
    """The CPU, or the GPU of this rank. Raises UserError if it is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here", "leave --device out, or say --device cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"rank {rank} has no CUDA device: this machine has {torch.cuda.device_count()}",
            "start at most one process per device (--nproc_per_node), or say --device cpu",
        )
    gpu = torch.device("cuda", local_rank)
    torch.cuda.set_device(gpu)
    return gpu


def _thread_count() -> int:
    """torch's own choice, which honours OMP_NUM_THREADS (torchrun sets it to 1), within the CPUs we are allowed."""
    return max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)), THREADS_MAX))
