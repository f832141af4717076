"""The examples of docs/instruments.md are run, and what the page says arrives is looked for."""

import re
from pathlib import Path
from typing import Any

import pytest

from sidecar import metrics, wire
from sidecar.client.run import Run
from tests.client.test_run import events

pytest.importorskip("torch")

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "instruments.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[wire.AnyEvent]]:
    """The events of each run of the page, by the run's name; the examples share their names, as on the page."""
    found: dict[str, list[wire.AnyEvent]] = {}
    finish = Run.finish

    def keep(run: Run, *args: Any, **kwargs: Any) -> None:
        run._instruments.close()
        found.setdefault(run.name or "", events(run))
        assert run.rejected == {}
        finish(run, timeout_seconds=0.01)

    monkeypatch.setattr(Run, "finish", keep)
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    scope: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/instruments.md", "exec"), scope)
    return found


def test_the_examples_run_and_every_name_they_make_is_in_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = executed(tmp_path, monkeypatch)
    assert found.keys() == {"instruments", "phases", "watched", "by hand", "mixture"}
    steps = [event for event in found["phases"] if isinstance(event, wire.Step)]
    assert all(event.phases.keys() == {"data_wait", "forward", "backward", "optimizer"} for event in steps)
    names = {name for each in found.values() for event in each for name in getattr(event, "metrics", {})}
    names |= {event.name for event in found["watched"] if isinstance(event, wire.Histogram)}
    assert [name for name in names if metrics.find(name) is None] == []
    for name in ("gradients/max_norm_name", "weights/global_std", "updates/ratio", "weights/0.weight/histogram"):
        assert name in names
        assert metrics.find(name).name.count("{") == name.count("0.weight")


def test_every_option_of_watch_is_on_the_page() -> None:
    import inspect

    from sidecar.client.probes import Probe

    parameters = inspect.signature(Probe.__init__).parameters.values()
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert options == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
