"""The audit finds in W&B's own file what the gate should have kept back."""

from pathlib import Path
from typing import Any

import pytest

from sidecar import wire
from sidecar.sinks import audit as auditing
from sidecar.sinks import egress
from sidecar.sinks.privacy import Gate, Identity, Manifest

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


def test_each_outlet_says_what_was_read_and_what_could_not_be(tmp_path: Path, stand_ins: None) -> None:
    run = Run(tmp_path, config={"api_key": "canary", "note": "canary words"})
    with Manager(run, "remote", "tensorboard", "jsonl") as manager:
        run.steps(0, 4, word="canary words")
        run.emit(wire.Text(run.now_ns, 0, 4, "sample", "canary words"))
        manager.drain()
    report = auditing.audit(tmp_path, "run-1", NOBODY)
    assert report.clean
    assert {outlet.sink: (outlet.leaves_machine, outlet.looked_at.partition(";")[0]) for outlet in report.outlets} == {
        "remote": (True, "keeps no copy that could be read again: certified by the gate's count alone"),
        "tensorboard": (False, "stays on this machine"), "jsonl": (False, "stays on this machine"),
    }  # fmt: skip
    assert all("1 files searched" in outlet.looked_at for outlet in report.outlets if not outlet.leaves_machine)


def test_a_key_or_a_name_in_what_stays_here_is_a_finding_without_the_word_itself(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "tensorboard", "csv", "parquet") as manager:
        run.steps(0, 1)
        run.emit(wire.Text(run.now_ns, 0, 1, "sample", "canary-user has hf_" + "a1" * 20))
        manager.drain()
    found = "\n".join(auditing.audit(tmp_path, "run-1", NOBODY).findings)
    assert "run-1.csv: holds what looks like a key" in found
    assert "run-1.csv: names this user or machine" in found
    assert found.count("tfevents") == found.count(".parquet: ") == 2
    assert "hf_" not in found
    assert "canary-user" not in found


def test_what_left_uncounted_or_without_its_word_cannot_be_certified(tmp_path: Path, stand_ins: None) -> None:
    run = Run(tmp_path)
    with Manager(run, "remote") as manager:
        run.steps(0, 1)
        manager.drain()
    egress.write(tmp_path, "run-1", [Manifest("run-1", "remote", [], {"step": 2, "text": 3})])
    assert auditing.audit(tmp_path, "run-1", NOBODY).findings == ["remote: 3 text were sent without the word text"]
    (tmp_path / "egress" / "run-1.json").unlink()
    (finding,) = auditing.audit(tmp_path, "run-1", NOBODY).findings
    assert finding.startswith("remote: nothing says what was sent")


def test_the_counts_go_on_over_restarts_and_beside_other_sinks(tmp_path: Path, stand_ins: None) -> None:
    run = Run(tmp_path, config={"lr": 0.5})
    for first, sink in ((0, "remote"), (2, "remote"), (4, "by_node")):
        with Manager(run, sink) as manager:
            run.steps(first, first + 1)
            manager.drain_one(sink)
    assert {manifest.sink: manifest.sent["step"] for manifest in egress.read(tmp_path, "run-1")} == {
        "remote": 6, "by_node": 6,
    }  # fmt: skip
