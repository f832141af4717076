"""``sidecar run`` of commands that end with an exit code of which the training process said nothing."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Command, wait_until_ready

TRAIN = """
import os, signal, sys
import sidecar
run = sidecar.init(project="tests", run_id={run!r})
for step in range(5):
    run.step(step, loss=1.0)
{end}
"""


def python(run: str, end: str) -> list[str]:
    return [sys.executable, "-c", TRAIN.format(run=run, end=end)]


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def states(sidecar: Command) -> dict[str, str]:
    _, out, _ = finish(sidecar("runs", "--json"))
    return {run["run_id"]: run["state"] for run in json.loads(out)}


@pytest.mark.parametrize(
    ("end", "code", "state", "verdict"),
    [
        ("sys.exit(3)", 3, "failed", "Failed at step 4: the command ended with exit code 3."),
        ("run.finish(); sys.exit(3)", 3, "failed", "Failed at step 4: the command ended with exit code 3."),
        ("raise ValueError('x')", 1, "failed", "Failed at step 4: ValueError."),
        (
            "os.kill(os.getpid(), signal.SIGKILL)", 137, "lost",
            "Lost: the trainer process is gone without saying goodbye at step 4;"
            " the command ended with exit code 137 (SIGKILL).",
        ),
        ("sys.exit(0)", 0, "finished", "Finished at step 4, loss 1"),
    ],
)  # fmt: skip
def test_the_exit_code_is_in_the_state_the_verdict_and_the_list_of_runs(
    sidecar: Command, tmp_path: Path, end: str, code: int, state: str, verdict: str
) -> None:
    returned, _, err = finish(sidecar("run", "--", *python("r", end)))
    [line] = [line for line in err.splitlines() if line.startswith("verdict")]
    assert (returned, line.split(maxsplit=1)[1].startswith(verdict)) == (code, True), err
    assert states(sidecar) == {"r": state}
    assert not list((tmp_path / "data" / "ended").glob("*"))


def test_in_a_script_of_several_trainings_only_the_last_is_blamed(sidecar: Command, tmp_path: Path) -> None:
    for name, end in (("good.py", "pass"), ("bad.py", "sys.exit(3)")):
        (tmp_path / name).write_text(TRAIN.format(run=name.removesuffix(".py"), end=end))
    script = f"{sys.executable} good.py && {sys.executable} bad.py"
    assert finish(sidecar("run", "-q", "--", "sh", "-c", script))[0] == 3
    assert states(sidecar) == {"good": "finished", "bad": "failed"}


def test_what_a_script_does_after_a_good_training_is_not_blamed_on_it(sidecar: Command, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(TRAIN.format(run="good", end="pass"))
    script = f"{sys.executable} good.py; cp missing x"
    assert finish(sidecar("run", "-q", "--", "sh", "-c", script))[0] == 1
    told = tuple(map(int, platform.release().split(".")[:2])) >= (6, 15)  # Before, it counts what ended last.
    assert states(sidecar) == {"good": "finished" if told else "failed"}


def test_a_sidecar_of_somebody_else_is_told_and_serves_on(sidecar: Command, tmp_path: Path) -> None:
    serving = sidecar("serve", "--endpoint", f"ipc://{tmp_path}/events")
    wait_until_ready(tmp_path / "data")
    code, _, err = finish(sidecar("run", "--", *python("r", "sys.exit(3)")))
    assert code == 3
    assert "Failed at step 4: the command ended with exit code 3." in err
    _, out, _ = finish(sidecar("export", "r", "--format", "jsonl"))
    assert len(out.splitlines()) >= 5
    serving.terminate()
    finish(serving)
    assert states(sidecar) == {"r": "failed"}


def test_a_sidecar_that_is_gone_leaves_the_news_to_the_next_one(sidecar: Command, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/events"
    serving = sidecar("serve", "--endpoint", endpoint)
    pid = wait_until_ready(tmp_path / "data")["pid"]
    end = f"os.kill({pid}, signal.SIGKILL); run.finish(timeout_seconds=0.2); sys.exit(3)"
    assert finish(sidecar("run", "-q", "--", *python("r", end)))[0] == 3
    finish(serving)
    assert len(list((tmp_path / "data" / "ended").glob("*.json"))) == 1
    assert finish(sidecar("run", "-q", "--endpoint", endpoint, "--", "true"))[0] == 0
    assert states(sidecar) == {"r": "failed"}
    assert not list((tmp_path / "data" / "ended").glob("*"))


@pytest.mark.parametrize("grace", ["0", "30"])
def test_a_command_without_a_run_ends_at_once_and_leaves_nothing(sidecar: Command, tmp_path: Path, grace: str) -> None:
    code, _, err = finish(sidecar("run", "--grace", grace, "--", "sh", "-c", "exit 7"))
    assert code == 7
    assert all(line.startswith("sidecar: ") for line in err.splitlines())
    assert not list((tmp_path / "data" / "ended").glob("*"))
