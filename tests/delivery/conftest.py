import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import recovery


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A fresh ipc endpoint; rings left for it are removed."""
    with tempfile.TemporaryDirectory(prefix="sc") as folder:
        address = f"ipc://{folder}/events"
        yield address
        for ring in rings_of(address):
            ring.unlink(missing_ok=True)


def rings_of(address: str) -> list[Path]:
    return list(recovery.rings_of(address))
