# ruff: noqa: E501 - scripts and tables read better on one line
"""``sidecar run --capture`` as a user types it: the real service, its status, and runs resumed by id."""

import json
import math
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.capture_env import NAMES, UnknownCapture, capture_environment, isolated
from sidecar.follow import Follower
from sidecar.store import Store


def sidecar(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).resolve().parents[2], env={**os.environ, "SIDECAR_DIR": str(folder / "data"), "SIDECAR_GRACE_SECONDS": "0"},
    )  # fmt: skip


def rows(folder: Path, run: str) -> list[dict]:
    done = sidecar(folder, "export", run, "--format", "jsonl", "-o", "-")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_script(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(text)
    done = sidecar(
        folder, "run", "--port", "0", *options, "--", sys.executable, str(folder / "train.py")
    )
    assert done.returncode == 0, done.stderr
    return done


def test_an_unchanged_script_logs_into_the_sidecar(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        "import wandb\nwandb.init(project='p', config={'lr': 1})\n"
        "for step in range(5): wandb.log({'train/loss': 1 / (step + 1)}, step=step)\n",
        "--capture", "wandb", "--run-id", "mine",
    )  # fmt: skip
    found = [row for row in rows(tmp_path, "mine") if row["kind"] == "log"]
    assert [(row["step"], row["metrics"]) for row in found] == [(s, {"train/loss": 1 / (s + 1)}) for s in range(5)]


def test_a_name_given_later_is_that_of_the_run(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        "import wandb\nrun = wandb.init(project='p', name='first')\n"
        "for step in range(3): wandb.log({'loss': 3 - step})\nrun.name = 'renamed'\n",
        "--capture", "wandb", "--run-id", "mine",
    )  # fmt: skip
    (found,) = json.loads(sidecar(tmp_path, "runs", "--json").stdout)
    assert (found["run_id"], found["name"], found["last_step"]) == ("mine", "renamed", 2)


RESUMED = """
import wandb
run = wandb.init(project="p", id="abc", resume="{resume}")
print(wandb.run.id, run.resumed, run.step, run.config.get("lr"), flush=True)
if not run.resumed: run.config.update({{"lr": 1}})
for i in range(3): wandb.log({{"loss": float(i)}})
"""


@pytest.mark.parametrize("token", ["", "0123456789abcdef"])
def test_a_run_resumed_by_its_id_goes_on_where_it_left_off(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDECAR_TOKEN", token)
    first = run_script(tmp_path, RESUMED.format(resume="allow"), "--capture", "wandb")
    second = run_script(tmp_path, RESUMED.format(resume="must"), "--capture", "wandb")
    assert first.stdout.splitlines() == ["abc False 0 None"]
    assert second.stdout.splitlines() == ["abc True 3 1"]
    assert [row["step"] for row in rows(tmp_path, "abc") if row["kind"] == "log"] == list(range(6))


SUMMARISED = """
import json, wandb
run = wandb.init(project="p", id="abc", resume="allow", config={"batch_size": 4})
if run.resumed: print(json.dumps({k: v for k, v in run.summary._as_dict().items() if k[0] != "_"}), flush=True)
else: wandb.define_metric("acc", summary="max"); run.summary["best"] = "epoch 3"
for i in range(4):
    row = {"loss": float(i), "acc": 5 - i, "lr": 0.1, "train/loss_ema": 9.0, "gone": 1.0, "bad": float("nan")}
    wandb.log(row if not run.resumed else {"gone": 2.0, "best": i})
if not run.resumed: del run.summary["gone"]
"""


def test_the_summary_of_a_resumed_run_is_what_the_script_logged_and_wrote_there_and_goes_on(tmp_path: Path) -> None:
    run_script(tmp_path, SUMMARISED, "--capture", "wandb")
    resumed = run_script(tmp_path, SUMMARISED, "--capture", "wandb")
    found = json.loads(resumed.stdout)
    assert math.isnan(found.pop("bad"))
    assert found == {"loss": 3.0, "acc": {"max": 5}, "lr": 0.1, "train/loss_ema": 9.0, "best": "epoch 3"}
    with closing(Follower(Store(tmp_path / "data").path("abc"), "abc", from_checkpoint=False)) as follower:
        for _ in follower.read(10_000):
            pass
        assert follower.projector.state.summary == {"acc": {"max": 5}}, "what is logged again follows from the rows"


def test_resuming_what_does_not_exist_is_an_error_and_never_resuming_what_does(tmp_path: Path) -> None:
    text = """
import wandb
try: wandb.init(project="p", id="nobody", resume="must")
except wandb.UsageError as error: print("UsageError")
wandb.init(project="p", id="known"); wandb.log({"a": 1}); wandb.finish()
import time; time.sleep(1.5)
try: wandb.init(project="p", id="known", resume="never")
except wandb.UsageError as error: print("UsageError")
"""
    assert run_script(tmp_path, text, "--capture", "wandb").stdout.splitlines() == ["UsageError", "UsageError"]


def test_a_wrong_name_and_an_isolated_python_are_refused_before_anything_starts(tmp_path: Path) -> None:
    wrong = sidecar(tmp_path, "run", "--capture", "wandbx", "--", sys.executable, "-c", "pass")
    assert wrong.returncode == 2
    assert "wandbx" in wrong.stderr
    alone = sidecar(tmp_path, "run", "--capture", "wandb", "--", sys.executable, "-I", "-c", "pass")
    assert alone.returncode == 2
    assert "PYTHONPATH" in alone.stderr


def test_the_environment_keeps_the_users_path_behind_ours() -> None:
    found = capture_environment(["wandb", "torch", "wandb"], {"PYTHONPATH": "/theirs:/too"})
    assert found["SIDECAR_CAPTURE"] == "wandb,torch"
    assert found["PYTHONPATH"].endswith(":/theirs:/too")
    again = capture_environment(["wandb", "torch"], {"PYTHONPATH": found["PYTHONPATH"]})
    assert again == found
    assert capture_environment([], {"PYTHONPATH": "/theirs"}) == {}
    for name in NAMES:
        assert capture_environment([name], {})
    with pytest.raises(UnknownCapture, match="choose from"):
        capture_environment(["mlflow"], {})


@pytest.mark.parametrize(
    ("command", "flag"),
    [(["python", "train.py"], None), (["python", "-I", "train.py"], "-I"), (["python3.11", "-uE", "x.py"], "-E"),
     (["python", "train.py", "-I"], None), (["python", "-m", "x", "-I"], None), (["torchrun", "train.py"], None),
     (["env", "A=1", "/usr/bin/python3", "-uI", "x"], "-I"), (["python", "-Wignore::ImportWarning", "x.py"], None),
     (["python", "-mIPython"], None), (["python", "-X", "importtime", "-I", "x.py"], "-I"), (["python", "-"], None),
     (["torchrun", "python_run.py", "-I", "5"], None)],
)  # fmt: skip
def test_an_isolated_python_is_told_by_its_options(command, flag) -> None:
    assert isolated(command) == flag
