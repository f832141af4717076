from pathlib import Path

import pytest

from sidecar.sinks import registry

HERE = Path(__file__).resolve().parent


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sinks of stand_ins.py under names of their own; children can import them."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    kinds = {"recorder": "Recorder", "second": "Recorder", "isolated": "Isolated"}
    kinds |= {"remote": "Remote", "by_node": "ByNode", "uploader": "Uploader"}
    for name, kind in kinds.items():
        monkeypatch.setitem(registry.SINKS, name, f"{__package__}.stand_ins:{kind}")

