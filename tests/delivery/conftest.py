import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.rendezvous import endpoint_key, ring_directories


@pytest.fixture()
def endpoint() -> Iterator[str]:
    """A fresh ipc endpoint; rings left for it are removed."""
    with tempfile.TemporaryDirectory(prefix="sc") as folder:
        address = f"ipc://{folder}/events"
        yield address
        for ring in rings_of(address):
            ring.unlink(missing_ok=True)


def rings_of(address: str) -> list[Path]:
    return [path for folder in ring_directories() for path in folder.glob(f"{endpoint_key(address)}-*.ring")]
