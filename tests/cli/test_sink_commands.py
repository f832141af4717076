"""`sidecar sink`, `sync` and `privacy`: over a finished run, beside a live sidecar, and when things are wrong."""

import json
from pathlib import Path

import pytest
from cli_helpers import Command, wait_until_ready
from sinks.harness import Run

from sidecar.cli import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with one finished run of ten steps."""
    directory = tmp_path / "data"
    monkeypatch.setenv("SIDECAR_DIR", str(directory))
    monkeypatch.chdir(tmp_path)
    run = Run(directory, config={"lr": 0.5, "prompt": "secret words"})
    run.steps(0, 9)
    run.finish()
    return directory


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["sink", "list", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def lines_of(directory: Path, run_id: str = "run-1") -> list[int]:
    path = directory / "files" / f"{run_id}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "step"]


def test_an_outlet_added_to_a_finished_run_gets_all_of_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == []
    assert main(["sink", "add", "jsonl", "latest"]) == 0
    assert capsys.readouterr().out == "jsonl of run-1: sent\n"
    assert lines_of(data) == list(range(10))
    (binding,) = listed(capsys, "run-1")
    assert (binding["sink"], binding["state"], binding["delivered"], binding["lag_rows"]) == ("jsonl", "sent", 20, 0)
    assert main(["sink", "add", "jsonl", "d12"]) == 0
    assert lines_of(data) == list(range(10))


def test_several_runs_are_added_by_id_or_name(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(data, run_id="run-2", session=9, name="other")
    other.steps(0, 4)
    assert main(["sink", "add", "jsonl", "d12", "run-2"]) == 0
    assert [lines_of(data, run) for run in ("run-1", "run-2")] == [list(range(10)), list(range(5))]


def test_a_paused_outlet_is_left_out_of_sync_and_goes_on_when_resumed(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sink", "add", "jsonl", "run-1"]) == 0
    assert main(["sink", "pause", "jsonl", "run-1"]) == 0
    late = Run(data, session=8)
    late.steps(10, 12)
    capsys.readouterr()
    assert main(["sync"]) == 0
    assert "jsonl of run-1: paused; `sidecar sink resume jsonl run-1`" in capsys.readouterr().out
    assert lines_of(data) == list(range(10))
    assert listed(capsys)[0]["state"] == "paused"
    assert main(["sink", "resume", "jsonl", "run-1"]) == 0
    assert listed(capsys)[0]["state"] == "behind"
    assert main(["sync", "run-1"]) == 0
    assert lines_of(data) == list(range(13))
    assert main(["sync"]) == 0
    assert capsys.readouterr().out.endswith("nothing to send\n")


def test_what_cannot_be_sent_is_said_with_its_reason_and_exit_code_1(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "files").write_text("a file where the folder should be")
    assert main(["sink", "add", "jsonl", "run-1", "--timeout", "1"]) == 1
    printed = capsys.readouterr()
    assert "jsonl of run-1: File exists:" in printed.err
    assert "jsonl of run-1: not all sent: File exists:" in printed.out
    assert "move the file away that stands where a folder belongs" in printed.out


@pytest.mark.parametrize(
    ("arguments", "code", "cause", "fix"),
    [
        (["sink", "add", "tensorbord", "run-1"], 2, "unknown sink 'tensorbord'", "did you mean tensorboard?"),
        (["sink", "add", "wandb", "nonsense"], 3, "no run 'nonsense'", "there are: run-1"),
        (["sink", "add", "wandb"], 2, "needs an outlet and a run", "sidecar sink add wandb latest"),
        (["sink", "pause", "csv", "run-1"], 2, "run run-1 is not bound to csv", "sidecar sink add csv run-1"),
        (["sink", "remove", "csv", "run-1"], 2, "invalid choice: 'remove'", "--help"),
        (["sync", "nonsense"], 3, "no run 'nonsense'", "there are: run-1"),
        (["privacy", "audit", "nonsense"], 3, "no run 'nonsense'", "there are: run-1"),
        (["privacy", "audit"], 2, "RUN", "--help"),
    ],
)
def test_errors_are_one_line_of_cause_and_one_of_remedy(
    data: Path, arguments: list[str], code: int, cause: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert cause in lines[0]
    assert fix in lines[1]


def test_a_live_sidecar_is_asked_to_send_and_never_overtaken(
    data: Path, sidecar: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is over and unknown to the sidecar that serves the directory now."""
    sidecar("serve", SIDECAR_DIR=str(data))
    wait_until_ready(data)
    assert main(["sink", "add", "jsonl", "run-1", "--timeout", "30"]) == 0
    printed = capsys.readouterr()
    assert "a sidecar serves this directory" in printed.err
    assert printed.out == "jsonl of run-1: sent\n"
    assert lines_of(data) == list(range(10))


def test_an_outlet_that_a_live_sidecar_writes_offline_is_added_unless_this_shell_could_send_it(
    data: Path, sidecar: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar("serve", SIDECAR_DIR=str(data), WANDB_MODE="offline")
    wait_until_ready(data)
    assert main(["sink", "add", "wandb", "run-1", "--timeout", "30"]) == 0
    assert "wandb of run-1: written offline by that sidecar" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert main(["sync", "run-1", "--timeout", "30"]) == 1
    assert "wandb of run-1: written offline by that sidecar" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sync", "run-1"]) == 0
    assert "not sent (offline: WANDB_MODE=offline); `sidecar sync` sends it once" in capsys.readouterr().out


def test_a_run_written_offline_needs_a_key_and_is_then_sent_once(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fakes.wandb_server import WandbServer

    assert main(["sink", "add", "wandb", "run-1"]) == 0
    assert "wandb of run-1: offline (no key" in capsys.readouterr().out
    assert main(["sync"]) == 0
    assert "not sent (offline: no key; set WANDB_API_KEY or run `wandb login`)" in capsys.readouterr().out
    assert main(["privacy", "audit", "run-1"]) == 0
    out = capsys.readouterr().out
    assert "wandb: 1 logs read again, 10 rows" in out
    assert out.endswith("run-1: clean: numbers and what was allowed, nothing else\n")
    with WandbServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        assert main(["sync"]) == 0
        assert "wandb of run-1: sent (W&B initialized: demo/d12)" in capsys.readouterr().out
        assert [row["train/global_step"] for row in server.runs["run-1"].history] == list(range(10))
        assert main(["sync"]) == 0
        assert capsys.readouterr().out == "nothing to send\n"


def test_the_audit_says_what_it_finds_and_ends_with_1(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidecar.sinks import audit

    found = audit.Audit("run-1", findings=["run-1.wandb: history word is no number"])
    monkeypatch.setattr(audit, "audit", lambda *_: found)
    assert main(["privacy", "audit", "run-1"]) == 1
    printed = capsys.readouterr()
    assert "finding: run-1.wandb: history word is no number" in printed.err
    assert printed.out.endswith("run-1: 1 findings\n")
    assert main(["privacy", "audit", "run-1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["clean"] is False


def test_the_audit_of_a_directory_whose_cursors_cannot_be_opened_is_two_lines(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "cursors.sqlite").unlink()
    (trained / "cursors.sqlite").mkdir()
    assert main(["privacy", "audit", "r1", "--dir", str(trained)]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "cursors.sqlite cannot be used" in lines[0]
    assert lines[1].startswith("fix: ")
