"""The audit finds in W&B's own file what the gate should have kept back."""

from pathlib import Path
from typing import Any

import pytest

from sidecar import wire
from sidecar.sinks import audit as auditing
from sidecar.sinks.privacy import Gate, Identity

from .harness import Manager, Run

NOBODY = Identity.of("canary-user")


def a_run(tmp_path: Path, **more: Any) -> None:
    run = Run(tmp_path, config={"lr": 0.5, "optimizer": "adamw", "prompt": "canary words"}, notes="by canary-user")
    with Manager(run, "wandb", **more) as manager:
        run.steps(0, 4, word="canary words")
        run.emit(wire.Text(run.now_ns, 0, 4, "sample", "canary words"))
        manager.drain()


def test_a_run_of_numbers_is_certified(tmp_path: Path) -> None:
    a_run(tmp_path)
    report = auditing.audit(tmp_path, "run-1", Identity.of("nobody-here"))
    assert report.findings == []
    assert report.clean
    assert (len(report.files), report.rows) == (1, 5)
    assert {"lr", "optimizer", "stage"} <= set(report.config_keys)
    assert "prompt" not in report.config_keys
    assert report.manifests[0].withheld["text"] == 1


def test_a_gate_that_lets_things_through_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Gate, "info", lambda self, info: info)
        broken.setattr(Gate, "rows", lambda self, rows: list(rows))
        a_run(tmp_path)
    report = auditing.audit(tmp_path, "run-1", NOBODY)
    text = "\n".join(report.findings)
    assert not report.clean
    assert "configuration prompt" in text
    assert "names this user or machine" in text
    assert "history word is no number" in text
    assert "canary words" not in text


def test_what_its_owner_allowed_is_no_finding(tmp_path: Path) -> None:
    a_run(tmp_path, allow=("text",))
    report = auditing.audit(tmp_path, "run-1", Identity.of("nobody-here"))
    assert [finding for finding in report.findings if "sample" in finding] == []
