"""What was emitted is in the journal exactly once, in order, whoever was killed when."""

import random
import time
from pathlib import Path

import pytest

from benchmarks import witness
from sidecar.store import Store
from tests.delivery.conftest import rings_of
from tests.delivery.processes import emitted, journaled_steps, kill, start, wait_until

SEED = 20261121


def _complete(directory: Path, path: Path) -> bool:
    return journaled_steps(directory, "r") == list(range(emitted(path)))


def test_sidecar_killed_again_and_again_loses_and_duplicates_nothing(endpoint: str, tmp_path: Path) -> None:
    rng, path = random.Random(SEED), tmp_path / "counter"
    intake = start("intake", endpoint, tmp_path / "data")
    trainer = start("train", endpoint, "r", path, 12_000, 0.0003, "finish")
    for _ in range(5):
        time.sleep(rng.uniform(0.3, 0.9))
        kill(intake)
        intake = start("intake", endpoint, tmp_path / "data")
    assert trainer.wait(60) == 0
    assert wait_until(lambda: _complete(tmp_path / "data", path)), f"seed {SEED}"
    kill(intake)
    assert emitted(path) == 12_000


@pytest.mark.parametrize("after_seconds", [0.4, 0.9])
def test_killed_trainer_loses_no_emit_that_returned(endpoint: str, tmp_path: Path, after_seconds: float) -> None:
    path = tmp_path / "counter"
    intake = start("intake", endpoint, tmp_path / "data")
    trainer = start("train", endpoint, "r", path, 1_000_000, 0.0002, "wait")
    assert wait_until(lambda: path.exists() and emitted(path) > 0)
    time.sleep(after_seconds)
    kill(trainer)
    at_least = emitted(path)
    # The counter may be one behind: the process can die between the emit and the count.
    assert wait_until(lambda: len(journaled_steps(tmp_path / "data", "r")) >= at_least)
    assert wait_until(lambda: not rings_of(endpoint)), "the ring of a dead trainer is removed once it is journaled"
    kill(intake)
    steps = journaled_steps(tmp_path / "data", "r")
    assert steps == list(range(len(steps)))
    assert len(steps) <= at_least + 1


def test_both_killed_and_a_new_sidecar_finds_everything_in_the_ring(endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "counter"
    intake = start("intake", endpoint, tmp_path / "data")
    trainer = start("train", endpoint, "r", path, 1_000_000, 0.0002, "wait")
    assert wait_until(lambda: path.exists() and emitted(path) > 200)
    kill(intake)
    time.sleep(0.3)
    kill(trainer)
    intake = start("intake", endpoint, tmp_path / "data")
    at_least = emitted(path)
    assert wait_until(lambda: len(journaled_steps(tmp_path / "data", "r")) >= at_least)
    kill(intake)
    steps = journaled_steps(tmp_path / "data", "r")
    assert steps == list(range(len(steps)))


@pytest.mark.parametrize(("end", "code"), [("finish", 0), ("os_exit", 7), ("exception", 1), ("sys_exit", 3)])
def test_a_run_without_any_sidecar_ends_as_it_would_and_is_claimed_later(
    endpoint: str, tmp_path: Path, end: str, code: int
) -> None:
    path = tmp_path / "counter"
    assert start("train", endpoint, "r", path, 500, 0, end).wait(30) == code
    assert len(rings_of(endpoint)) == 1
    intake = start("intake", endpoint, tmp_path / "data")
    found = wait_until(lambda: not rings_of(endpoint))
    kill(intake)
    assert found
    assert journaled_steps(tmp_path / "data", "r") == list(range(500))


def test_a_restarted_trainer_with_the_same_run_id_is_not_taken_for_a_duplicate(endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "counter"
    intake = start("intake", endpoint, tmp_path / "data")
    for _ in range(2):
        assert start("train", endpoint, "r", path, 100, 0, "finish").wait(30) == 0
    kill(intake)
    assert journaled_steps(tmp_path / "data", "r") == list(range(200))


def test_a_ring_too_small_for_the_outage_declares_exactly_what_it_lost(endpoint: str, tmp_path: Path) -> None:
    path, events = tmp_path / "counter", 20_000
    assert start("train", endpoint, "r", path, events, 0, "finish", env={"SIDECAR_RING_MB": "0.25"}).wait(30) == 0
    intake = start("intake", endpoint, tmp_path / "data")
    assert wait_until(lambda: not rings_of(endpoint))
    kill(intake)
    found = witness.read_journal(Store(tmp_path / "data").path("r"))
    ((sequence,), (steps,)) = found.sequences.values(), found.steps.values()
    assert steps == list(range(steps[0], events)), "the newest are kept, without holes"
    assert 0 < len(steps) < events
    assert sequence == list(range(sequence[0], sequence[-1] + 1))
    assert found.gaps == sequence[0], "what the ring lost before it, reports of the client included"
    assert emitted(path) == events
