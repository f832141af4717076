"""Rows as the projector prints them, from runs begun in this process."""

from collections.abc import Iterator

import pytest

from sidecar.client import run as runs
from sidecar.client import start
from tests.capture.conftest import Listener, listener  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def no_run_before(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> Iterator[None]:  # noqa: F811
    monkeypatch.setenv("SIDECAR_ENDPOINT", listener.endpoint)
    monkeypatch.setattr(start, "_implicit", None)
    yield
    for run in list(runs._live):
        run.finish(timeout_seconds=1)


@pytest.fixture
def last(listener: Listener):  # noqa: F811
    """The log rows of the run, once it is finished: merged into one map of the last values."""

    def read(run, kinds=("log",)) -> dict:
        run.finish()
        merged: dict = {}
        for row in listener.rows(run.id, kinds, wait=lambda rows: True):
            merged.update(row.metrics)
        return merged

    return read
