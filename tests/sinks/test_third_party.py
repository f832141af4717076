"""The example in docs/sinks.md is a sink that works, found through an entry point."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sidecar.sinks import registry

from .harness import Manager, Run


@pytest.fixture
def shout(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's own code as the module ``your_package``."""
    text = (repository / "docs" / "sinks.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 36
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "your_package.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    monkeypatch.delitem(sys.modules, "your_package", raising=False)
    point = EntryPoint("shout", "your_package:ShoutSink", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "_third_parties", lambda: (point,))


@pytest.mark.usefixtures("shout")
def test_the_documented_example_works(tmp_path: Path) -> None:
    assert registry.known()[-1] == "shout"
    run = Run(tmp_path)
    with Manager(run, "shout") as manager:
        run.steps(0, 1)
        manager.drain()
        assert manager.health("shout").state == "ok"
    assert (tmp_path / "shouts.txt").read_text() == "STEP 0: LOSS 4.0!\nSTEP 1: LOSS 2.0!\n"
