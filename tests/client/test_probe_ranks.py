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

Found = dict[str, Any]
Ranks = list[Found]

REPOSITORY = Path(__file__).resolve().parent.parent.parent

RANK = """
import json, os, sys
import torch, torch.distributed as dist
from torch import nn
import sidecar
from sidecar import wire
from tests.client.test_run import events

kinds, out, endpoint = sys.argv[1].split(","), *sys.argv[2:]
torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if size > 1:
    dist.init_process_group("gloo")

def train(kind):
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
    run.watch(trained, optimizer, every=2, shards=shards, histograms=["weights", "gradients"])
    batch = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    share = batch[rank * 8 // size : (rank + 1) * 8 // size]
    for step in range(1, 3):
        optimizer.zero_grad()
        loss = trained(share).square().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained.parameters(), 1e-2)
        optimizer.step()
        run.step(step, loss=loss.item(), grad_norm=norm)
    run._instruments.close()
    return run

done = {}
for kind in kinds:
    run = train(kind)
    found, bins = {}, {}
    for event in events(run):
        if isinstance(event, wire.Log):
            found |= event.metrics
        elif isinstance(event, wire.Step):
            found["train/grad_norm"] = event.metrics["train/grad_norm"]
        elif isinstance(event, wire.Histogram):
            bins[event.name] = [event.edges[0], event.edges[-1], *event.counts]
    done[kind] = {"metrics": found, "bins": bins, "rejected": run.rejected}
    run._emitter.emit = run._emitter._after_finish
    run._emitter.pump.stop()
    run._emitter.ring.remove()
with open(f"{out}/{rank}.json", "w") as file:
    json.dump(done, file)
if size > 1:
    dist.destroy_process_group()
"""


def ranks(tmp_path: Path, kinds: str, size: int) -> list[dict[str, Any]]:
    """What each rank found, by kind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, kinds, str(tmp_path), f"ipc://{tmp_path}/nobody"],
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
    return ranks(tmp_path_factory.mktemp("alone"), "plain", 1)[0]["plain"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ranks(tmp_path_factory.mktemp("two"), "ddp,fsdp-reduce,fsdp", 2)


def assert_same_bins(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    """The same ends, and as many values; a value on the edge of a bin may fall to either side of it."""
    assert found.keys() == expected.keys()
    for name, (low, high, *counts) in expected.items():
        assert found[name][:2] == pytest.approx((low, high), rel=1e-4, abs=1e-6), name
        assert sum(found[name][2:]) == sum(counts), name
        assert sum(abs(a - b) for a, b in zip(found[name][2:], counts, strict=True)) <= 4, name


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)), name


@pytest.mark.slow
def test_under_ddp_every_rank_sees_the_averaged_gradient(two: Ranks, alone: Found) -> None:
    for rank in (each["ddp"] for each in two):
        assert_same(rank["metrics"], alone["metrics"])
        assert_same_bins(rank["bins"], alone["bins"])
        assert rank["rejected"] == {}


@pytest.mark.slow
def test_under_fsdp_shards_are_added_up_when_every_rank_was_told_to(two: Ranks, alone: Found) -> None:
    both = [each["fsdp-reduce"] for each in two]
    for rank in both:
        assert_same(rank["metrics"], alone["metrics"])
        assert_same_bins(rank["bins"], alone["bins"])
        assert rank["rejected"] == {}
    assert both[0]["bins"] == both[1]["bins"]


@pytest.mark.slow
def test_under_fsdp_a_rank_alone_says_that_it_speaks_of_its_shard(two: Ranks, alone: Found) -> None:
    both = [each["fsdp"] for each in two]
    name = "shard/gradients/global_norm"
    whole = sum(rank["metrics"][name] ** 2 for rank in both) ** 0.5
    assert whole == pytest.approx(alone["metrics"]["gradients/global_norm"], rel=1e-4)
    for rank in both:
        assert rank["metrics"].pop("train/grad_norm") == pytest.approx(alone["metrics"]["train/grad_norm"], rel=1e-4)
        assert all(name.startswith("shard/") for name in [*rank["metrics"], *rank["bins"]])
        assert rank["rejected"] == {}
    bins = "weights/0.weight/histogram"
    assert sum(sum(rank["bins"][f"shard/{bins}"][2:]) for rank in both) == sum(alone["bins"][bins][2:]) == 8 * 17
