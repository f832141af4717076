"""``sidecar doctor``: each thing it looks for, with its fix; orphaned rings; and ``sidecar bench``."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import Command

from sidecar import leftovers, overhead
from sidecar.commands import doctor, troubleshooting
from sidecar.config import Config, load

ORPHAN = "import os, sidecar; r = sidecar.init(project='p', run_id='left'); r.step(1, loss=1.0); os._exit(0)"
ALIVE = "import sidecar; r = sidecar.init(project='p', run_id='lives'); r.step(1); print('up', flush=True); input()"


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/nobody"


@pytest.fixture
def orphan(endpoint: str, repository: Path) -> leftovers.Leftover:
    """The ring of a trainer that was gone before any sidecar took its step."""
    env = os.environ | {"SIDECAR_ENDPOINT": endpoint, "PYTHONPATH": str(repository), "SIDECAR_RING_MB": "1"}
    subprocess.run([sys.executable, "-c", ORPHAN], env=env, check=True, timeout=60)
    [found] = leftovers.of_endpoint(leftovers.leftovers(time.time()), endpoint)
    return found


def findings(check, config: Config) -> dict[str, troubleshooting.Finding]:
    return {finding.check: finding for finding in check(config)}


def test_an_orphaned_ring_is_described_and_removed_and_nothing_else(orphan: leftovers.Leftover) -> None:
    assert (orphan.run_id, orphan.events) == ("left", 1)
    assert orphan.size_bytes >= 1 << 20
    assert leftovers.remove([orphan]) == [orphan]
    assert not orphan.path.exists()
    assert leftovers.remove([orphan]) == []


def test_the_ring_of_a_living_trainer_is_no_orphan(endpoint: str, repository: Path) -> None:
    env = os.environ | {"SIDECAR_ENDPOINT": endpoint, "PYTHONPATH": str(repository), "SIDECAR_RING_MB": "1"}
    trainer = subprocess.Popen(
        [sys.executable, "-c", ALIVE], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "up\n"
        assert not leftovers.of_endpoint(leftovers.leftovers(time.time()), endpoint)
    finally:
        trainer.kill()
        trainer.communicate()
    left = leftovers.of_endpoint(leftovers.leftovers(time.time()), endpoint)
    assert [one.run_id for one in left] == ["lives"]
    leftovers.remove(left)


def test_doctor_names_the_command_that_takes_an_orphaned_ring(orphan: leftovers.Leftover, endpoint: str) -> None:
    config = load({"endpoint": endpoint, "dir": "/tmp/x"}, {}).config
    try:
        shown = [one for one in troubleshooting.rings(config) if str(orphan.path) in one.text]
        others = len(leftovers.leftovers(time.time()))
    finally:
        leftovers.remove([orphan])
    assert shown or others > troubleshooting.RINGS_SHOWN
    assert all(one.level == "warning" and "sidecar serve --dir /tmp/x" in one.fix for one in shown)


def test_doctor_removes_orphans_only_when_asked(
    orphan: leftovers.Leftover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "rings"
    own.mkdir(mode=0o700)
    moved = own / orphan.path.name
    moved.write_bytes(orphan.path.read_bytes())
    moved.chmod(0o600)
    orphan.path.unlink()
    monkeypatch.setattr(leftovers, "ring_directories", lambda: [own])
    from sidecar import cli

    cli.main(["doctor", "--dir", str(tmp_path / "d"), "--json"])
    assert moved.exists()
    cli.main(["doctor", "--dir", str(tmp_path / "d"), "--json", "--remove-orphans"])
    assert not moved.exists()
    assert "1 orphaned rings removed" in capsys.readouterr().out


def test_a_folder_called_wandb_that_hides_the_package_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config(dir=str(tmp_path))
    assert not findings(troubleshooting.wandb_shadowed, config)
    (tmp_path / "wandb").mkdir()
    assert findings(troubleshooting.wandb_shadowed, config)["wandb"].level == "ok"
    (tmp_path / "wandb" / "__init__.py").touch()
    assert findings(troubleshooting.wandb_shadowed, config)["wandb"].level == "warning"


def test_the_key_is_reported_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a1" * 20)
    found = list(troubleshooting.wandb_account(Config(dir=str(tmp_path))))
    assert "WANDB_API_KEY (***)" in found[0].text
    assert "a1a1" not in str(found)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert findings(troubleshooting.wandb_account, Config(dir=str(tmp_path)))["wandb mode"].level == "warning"


def test_a_network_file_system_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "network_file_system", lambda path: "nfs4")
    found = list(doctor.directory(Config(dir=str(tmp_path))))
    assert [one.level for one in found] == ["ok", "error"]
    assert "nfs4" in found[1].text
    assert found[1].fix


def test_two_projects_at_once_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "one")
    two, one = Config(dir=str(tmp_path), project="two"), Config(dir=str(tmp_path), project="one")
    assert findings(troubleshooting.project_names, two)["project"].level == "warning"
    assert not findings(troubleshooting.project_names, one)


def test_the_latest_run_says_what_was_never_reported(trained: Path) -> None:
    texts = [one.text for one in troubleshooting.latest_run(Config(dir=str(trained)))]
    assert texts[0].startswith("r1: step 5")
    assert "no evaluation metrics" not in texts
    empty = list(troubleshooting.latest_run(Config(dir=str(trained / "none"))))
    assert "sidecar demo" in empty[0].fix


def test_a_check_that_breaks_is_a_finding_of_its_own(tmp_path: Path) -> None:
    def broken(_: Config):
        raise RuntimeError("odd machine")

    [found] = doctor.attempt(broken, Config(dir=str(tmp_path)))
    assert (found.level, found.check) == ("error", "broken")
    assert "odd machine" in found.text


def test_what_may_not_be_read_is_named_and_no_mistake_of_ours(tmp_path: Path) -> None:
    def closed(_: Config):
        raise PermissionError(13, "Permission denied", "/data/runs")

    [found] = doctor.attempt(closed, Config(dir=str(tmp_path)))
    assert (found.level, found.text) == ("error", "cannot read /data/runs: Permission denied")
    assert "permissions" in found.fix


def test_bench_overhead_prints_pairs_noise_and_interval(sidecar: Command) -> None:
    process = sidecar("bench", "overhead", "--pairs", "6", "--steps", "20", "--json")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    found = json.loads(out)
    assert found["pairs"] == 6
    for name in ("growth_percent", "cpu_growth_percent", "noise_percent"):
        assert found[name]["low"] <= found[name]["median"] <= found[name]["high"]
    assert found["step_seconds"] > 0


def test_few_pairs_claim_nothing() -> None:
    for pairs in (1, 2, 5):
        made = overhead.interval([1.03] * pairs)
        assert made.median == pytest.approx(3.0)
        found = overhead.Overhead(pairs, 20, 0.001, made, made, made, 0.1, 0.1)
        assert "cannot be told from zero" in overhead.report(found)[-1]
    assert overhead.interval([1.03] * 6).low == pytest.approx(3.0)


def test_fewer_than_six_pairs_are_refused(sidecar: Command) -> None:
    process = sidecar("bench", "overhead", "--pairs", "5")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--pairs" in err


def test_report_says_when_growth_cannot_be_told_from_noise() -> None:
    zero = overhead.Interval(0.1, -1.0, 1.0)
    real = overhead.Interval(0.8, 0.5, 1.0)
    made = overhead.Overhead(5, 20, 0.001, zero, zero, zero, 0.1, 0.1)
    assert "cannot be told from zero" in overhead.report(made)[-1]
    made = overhead.Overhead(5, 20, 0.001, real, zero, zero, 0.1, 0.1)
    assert "is real" in overhead.report(made)[-1]
    assert "+8.0 us a step" in overhead.report(made)[1]
