"""``sidecar selftest`` and ``sidecar bench``: short, real, and away from the user's things."""

import json
import os
from pathlib import Path

from cli_helpers import Command

from sidecar import recovery, trial
from sidecar.commands import selftest

PARTS = {"service", "client", "recovery", "training", "/status", "/metrics", "shutdown", "journal", "export"}


def test_selftest_checks_every_part_and_touches_nothing_of_the_users(sidecar: Command, tmp_path: Path) -> None:
    environ = {"WANDB_API_KEY": "k" * 40, "WANDB_DIR": str(tmp_path / "mine"), "SIDECAR_ENDPOINT": "ipc:///nowhere/x"}
    process = sidecar("selftest", "--json", **environ)
    out, err = process.communicate(timeout=180)
    checks = {check["name"]: check for check in json.loads(out)}
    assert (process.returncode, err) == (0, ""), out
    assert set(checks) >= PARTS | {"wandb", "tensorboard", "privacy"}
    assert all(check["ok"] and check["text"] for check in checks.values())
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "mine").exists()
    assert "k" * 40 not in out


def test_selftest_fails_with_1_and_says_where_when_no_sidecar_can_start(sidecar: Command, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "uvicorn.py").write_text("raise RuntimeError('no web server here')\n")
    process = sidecar("selftest", PYTHONPATH=f"{broken}{os.pathsep}{Path(__file__).resolve().parents[2]}")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.startswith("FAILED   service")
    assert "sidecar doctor" in out


def test_a_failed_check_says_what_was_expected() -> None:
    def check() -> str:
        selftest._same("step", 3, 4)
        return ""

    assert selftest.attempt("x", check) == selftest.Check("x", False, "step: 3, expected 4")


def test_a_trial_leaves_no_folder_no_process_and_no_ring() -> None:
    with trial.folder() as made:
        made.start()
        code = "import os, sidecar; r = sidecar.init(project='p'); r.step(1, loss=1.0); os._exit(0)"
        made.client(code).communicate(timeout=60)
        directory, endpoint, process = made.directory, made.endpoint, made._process
    assert process is not None
    assert process.poll() is not None
    assert not directory.exists()
    assert not list(recovery.rings_of(endpoint))


def test_a_trial_has_neither_keys_nor_settings_of_the_user(tmp_path: Path, monkeypatch) -> None:
    for name in ("WANDB_API_KEY", "SIDECAR_TOKEN", "https_proxy"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in trial.private_environment(tmp_path).values()
