"""What the client's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar
from sidecar.client import clipping
from sidecar.client import run as runs


@pytest.fixture(autouse=True)
def no_run_outlives_its_test() -> Iterator[None]:
    """The fixtures here take a run's ring away without finishing it: it must not be the current run of a later test."""
    yield
    runs._live.clear()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[runs.Run]:
    """A run with no sidecar: what it emitted is in its ring."""
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    yield made
    made._emitter.pump.stop()
    made._instruments.close()  # Takes the hooks off that a test left behind.
    if made._emitter.is_open:
        made._emitter.emit = made._emitter._after_finish
        made._emitter.ring.remove()
    assert clipping._listeners == []
