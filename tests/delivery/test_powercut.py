"""What a power cut of the sidecar's host leaves: nothing acknowledged is lost, whichever unsynced writes survive.

A library in front of libc keeps each file as it was at its last sync. A cut is that, with any of the later writes
added sector by sector. The journal made of it is opened as a sidecar opens it, and read without the product's code.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import witness
from sidecar.ring import CURSORS, CURSORS_OFFSET
from sidecar.salvage import ensure_sound
from sidecar.store import Store
from tests.delivery.conftest import rings_of
from tests.delivery.processes import kill, start, wait_until

SEED = 20261121
SECTOR_BYTES = 512
CUTS = 12
EVENTS_PER_SECOND = 4_000  # So that SQLite copies its log back into the file meanwhile, too.


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("gcc not installed: apt-get install gcc")
    built = tmp_path_factory.mktemp("powercut") / "powercut.so"
    source = Path(__file__).with_name("powercut.c")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", built, source, "-ldl"],
                   check=True)  # fmt: skip
    return built


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


def acknowledged(endpoint: str) -> int:
    """How many events the trainer has been told it may forget."""
    (ring,) = rings_of(endpoint)
    with ring.open("rb") as file:
        return CURSORS.unpack(os.pread(file.fileno(), CURSORS.size, CURSORS_OFFSET))[3]


def cut(kept: Path, live: Path, into: Path, rng: random.Random) -> Path:
    """The journal as after a power cut: what was synced, and at random some of what was not."""
    into.mkdir()
    for suffix in ("", "-wal"):
        synced = (kept / f"{live.name}{suffix}").read_bytes()
        written = Path(f"{live}{suffix}").read_bytes()
        share = rng.choice([0.0, 0.1, 0.5, 0.9])
        sectors = [
            written[at : at + SECTOR_BYTES] if rng.random() < share else synced[at : at + SECTOR_BYTES]
            for at in range(0, max(len(synced), len(written)), SECTOR_BYTES)
        ]
        (into / f"{live.name}{suffix}").write_bytes(b"".join(part.ljust(SECTOR_BYTES, b"\0") for part in sectors))
    return into / live.name


def sequence_in(journal: Path) -> list[int]:
    assert ensure_sound(journal) is None, "a power cut must not need salvage"
    found = witness.read_journal(journal)
    assert found.damaged == 0
    (sequence,) = found.sequences.values()
    return sequence


def test_nothing_acknowledged_is_lost_by_a_power_cut(
    endpoint: str, tmp_path: Path, kept: Path, library: Path
) -> None:
    rng, live = random.Random(SEED), Store(tmp_path / "data").path("r")
    intake = start("intake", endpoint, tmp_path / "data", env={"LD_PRELOAD": str(library), "POWERCUT_KEPT": str(kept)})
    trainer = start("train", endpoint, "r", tmp_path / "counter", 10**6, 1 / EVENTS_PER_SECOND, "wait")
    try:
        assert wait_until(lambda: bool(rings_of(endpoint)) and acknowledged(endpoint) > 0)
        before = 0
        for number in range(CUTS):
            time.sleep(rng.uniform(0.05, 0.4))
            intake.send_signal(signal.SIGSTOP)
            promised = acknowledged(endpoint)
            journal = cut(kept, live, tmp_path / f"cut-{number}", rng)
            intake.send_signal(signal.SIGCONT)
            sequence = sequence_in(journal)
            assert sequence == list(range(len(sequence))), f"cut {number}, seed {SEED}"
            assert len(sequence) >= promised, f"cut {number}, seed {SEED}"
            assert promised >= before
            before = promised
        assert before > 0, "nothing was promised, so nothing was shown"
    finally:
        kill(trainer)
        kill(intake)


def test_a_disk_that_fails_to_sync_is_not_acknowledged_and_tried_again(
    endpoint: str, tmp_path: Path, kept: Path, library: Path
) -> None:
    """After the failure the same batch is written anew: what a failed sync left in the cache is not relied on."""
    intake = start("intake", endpoint, tmp_path / "data", env={"LD_PRELOAD": str(library), "POWERCUT_KEPT": str(kept)})
    trainer = start("train", endpoint, "r", tmp_path / "counter", 10**6, 0.001, "wait")
    try:
        assert wait_until(lambda: bool(rings_of(endpoint)) and acknowledged(endpoint) > 0)
        (kept / "fail").touch()
        time.sleep(1.2)  # What was under way is over: the trainer looks for acknowledgements at its next tick.
        promised = acknowledged(endpoint)
        time.sleep(1.2)
        assert acknowledged(endpoint) == promised
        (kept / "fail").unlink()
        assert wait_until(lambda: acknowledged(endpoint) > promised + 500)
        intake.send_signal(signal.SIGSTOP)
        promised = acknowledged(endpoint)
        live = Store(tmp_path / "data").path("r")
        sequence = sequence_in(cut(kept, live, tmp_path / "cut", random.Random(SEED)))
        assert sequence == list(range(len(sequence)))
        assert len(sequence) >= promised
    finally:
        kill(trainer)
        intake.send_signal(signal.SIGCONT)
        kill(intake)
