"""What the client's tests share."""

from collections.abc import Iterator

import pytest

from sidecar.client import run as runs


@pytest.fixture(autouse=True)
def no_run_outlives_its_test() -> Iterator[None]:
    """The fixtures here take a run's ring away without finishing it: it must not be the current run of a later test."""
    yield
    runs._live.clear()
