"""Faults of the matrix that need the whole machine: real processes, a full disk, a broken network, a flood."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import chaos, common, footprint, witness

SEED = 20261121

CHAOS = {
    "a_full_disk": ["--only", "fill_disk", "--faults", "2"],
    "a_stopped_sidecar": ["--only", "stop_sidecar", "--faults", "3"],
    "a_sidecar_stuck_and_then_killed": ["--only", "stop_and_kill_sidecar", "--faults", "3"],
    "both_killed_in_any_order": ["--only", "kill_both", "--faults", "3"],
    "connections_cut_at_any_byte": ["--endpoint", "network", "--only", "cut_network", "--faults", "8"],
    "messages_cut_in_the_middle": ["--endpoint", "network", "--only", "truncate_network", "--faults", "8"],
    "a_network_that_stands_still": ["--endpoint", "network", "--only", "stall_network", "--faults", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", CHAOS)
def test_nothing_is_lost_or_doubled_through(fault: str, repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--seconds", "4", "--rate", "2000", "--seed", str(SEED)]
    done = subprocess.run(
        [*command, *CHAOS[fault]], cwd=repository, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"emitted [1-9]", done.stdout), "nothing was emitted, so nothing was shown"


@pytest.fixture
def sidecar() -> Iterator[common.Sidecar]:
    with common.sidecar_alive() as one:
        yield one


def start_trainer(one: common.Sidecar, *options: object, **env: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.witness", one.endpoint, "r", str(one.folder / "counter")]
    return subprocess.Popen(
        [*command, *map(str, options)],
        cwd=common.REPOSITORY,
        env=common.environment(**env),
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_a_flood_never_blocks_and_every_loss_is_counted(sidecar: common.Sidecar) -> None:
    trainer = start_trainer(sidecar, "--rate", 1e8, "--seconds", 1, SIDECAR_RING_MB="1")
    assert trainer.wait(60) == 0
    assert common.wait_until(lambda: sidecar.status("r").get("state") == "finished", 90.0, every_seconds=0.2)
    status = sidecar.status("r")
    memory_mib = footprint.memory_mib(sidecar.pid)[0]
    sidecar.stop()
    emitted = witness.emitted(sidecar.folder / "counter")
    found = witness.journal_in(sidecar.folder)
    steps = sum(len(steps) for steps in found.steps.values())
    counted = steps + found.gaps + status["rejected"].get("aside_full", 0)
    assert emitted > 100_000
    assert found.gaps > 0, "the ring was large enough: this was no flood"
    assert emitted <= counted <= emitted + 20, "a few reports of the client may be among the overwritten events"
    assert status["lost_events"] == found.gaps
    assert memory_mib < 200


@pytest.mark.slow
def test_a_data_directory_removed_under_the_sidecar_is_noticed_and_nothing_more_is_acknowledged(
    sidecar: common.Sidecar,
) -> None:
    trainer = start_trainer(sidecar, "--rate", 500, "--seconds", 8)
    try:
        assert common.wait_until(lambda: (sidecar.status("r").get("step") or 0) > 100, 30.0)
        shutil.rmtree(sidecar.folder / "data")
        time.sleep(2.0)
        emitted = witness.emitted(sidecar.folder / "counter")
        noticed = common.wait_until(lambda: sidecar.status()["sidecar"]["journal"]["state"] != "ok", 5.0)
        assert noticed or common.rings_of(sidecar.endpoint), f"{emitted} events acknowledged, and nowhere to be found"
        assert noticed
    finally:
        common.kill(trainer)


@pytest.mark.slow
def test_a_sidecar_out_of_disk_says_so_and_goes_on_by_itself(sidecar: common.Sidecar) -> None:
    trainer = start_trainer(sidecar, "--rate", 500, "--seconds", 60)
    try:
        assert common.wait_until(lambda: (sidecar.status("r").get("step") or 0) > 100, 30.0)
        with chaos.full_disk(sidecar.folder / "data", sidecar.pid):
            assert common.wait_until(lambda: sidecar.status()["sidecar"]["journal"]["state"] == "full", 20.0)
            assert "free some space" in sidecar.status()["sidecar"]["journal"]["reason"]
        assert common.wait_until(lambda: sidecar.status()["sidecar"]["journal"]["state"] == "ok", 20.0)
        (sidecar.folder / "counter.stop").touch()
        assert trainer.wait(40) == 0
    finally:
        common.kill(trainer)
    sidecar.stop()
    found = witness.compare(witness.journal_in(sidecar.folder), witness.emitted(sidecar.folder / "counter"), 1)
    assert found.nothing_lost, found
