"""Probes where a model is spread over ranks: two processes with gloo, DDP and FSDP2, against one process with all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STEPS = 2

RANK = """
import json, os, sys
import torch, torch.distributed as dist
from torch import nn
import sidecar
from sidecar import wire
from tests.client.test_run import events

kind, out, endpoint = sys.argv[1:]
torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if size > 1:
    dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 17), nn.Tanh(), nn.Linear(17, 3))
trained = model
if kind == "ddp":
    trained = nn.parallel.DistributedDataParallel(model)
elif kind.startswith("fsdp"):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    trained = fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
run = sidecar.init("tests", endpoint=endpoint)
shards = "reduce" if kind == "fsdp-reduce" else "local"
run.watch(trained, optimizer, every=2, shards=shards, histograms=["weights"])
batch = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
share = batch[rank * 8 // size : (rank + 1) * 8 // size]
losses = []
for step in range(1, 3):
    optimizer.zero_grad()
    loss = trained(share).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(trained.parameters(), 1e-2)
    optimizer.step()
    run.step(step, loss=loss.item())
    losses.append(loss.item())
found, bins = {}, {}
for event in events(run):
    if isinstance(event, wire.Log):
        found |= event.metrics
    elif isinstance(event, wire.Histogram):
        bins[event.name] = sum(event.counts)
with open(f"{out}/{rank}.json", "w") as file:
    json.dump({"metrics": found, "bins": bins, "rejected": run.rejected, "losses": losses}, file)
run._emitter.emit = run._emitter._after_finish
run._emitter.pump.stop()
run._emitter.ring.remove()
if size > 1:
    dist.destroy_process_group()
"""


def ranks(tmp_path: Path, kind: str, size: int) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, kind, str(tmp_path), f"ipc://{tmp_path}/nobody"],
            env=environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for rank in range(size)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * size, errors
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process with the whole batch: what all others must agree with."""
    return ranks(tmp_path_factory.mktemp("alone"), "plain", 1)[0]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), name


@pytest.mark.slow
def test_under_ddp_every_rank_sees_the_averaged_gradient(tmp_path: Path, alone: dict[str, Any]) -> None:
    for rank in ranks(tmp_path, "ddp", 2):
        assert_same(rank["metrics"], alone["metrics"])
        assert rank["bins"] == alone["bins"]
        assert rank["rejected"] == {}


@pytest.mark.slow
def test_under_fsdp_shards_are_added_up_when_every_rank_was_told_to(tmp_path: Path, alone: dict[str, Any]) -> None:
    both = ranks(tmp_path, "fsdp-reduce", 2)
    for rank in both:
        assert_same(rank["metrics"], alone["metrics"])
        assert all(name.startswith("shard/") for name in rank["bins"])
        assert rank["rejected"] == {}


@pytest.mark.slow
def test_under_fsdp_a_rank_alone_says_that_it_speaks_of_its_shard(tmp_path: Path, alone: dict[str, Any]) -> None:
    both = ranks(tmp_path, "fsdp", 2)
    name = "shard/gradients/global_norm"
    whole = sum(rank["metrics"][name] ** 2 for rank in both) ** 0.5
    assert whole == pytest.approx(alone["metrics"]["gradients/global_norm"], rel=1e-4)
    for rank in both:
        assert all(name.startswith("shard/") for name in rank["metrics"])
        assert rank["rejected"] == {}
    bins = "weights/0.weight/histogram"
    assert sum(rank["bins"].get(f"shard/{bins}", 0) for rank in both) == alone["bins"][bins] == 8 * 17
