from pathlib import Path

import pytest

from sidecar.sinks import registry

HERE = Path(__file__).resolve().parent


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sinks of stand_ins.py under the names recorder, second, isolated and remote; children can import them."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    kinds = {"recorder": "Recorder", "second": "Recorder", "isolated": "Isolated", "remote": "Remote"}
    for name, kind in kinds.items():
        monkeypatch.setitem(registry.SINKS, name, f"{__package__}.stand_ins:{kind}")

