"""Several ``sidecar run`` on one data directory: the sidecar belongs to one of them, and monitoring to all."""

import json
import sys
from pathlib import Path

import pytest
from cli_helpers import Command, wait_until_ready

from sidecar import live, supervise
from sidecar.config import load
from sidecar.errors import Exit, UserError
from sidecar.launch import Launch

STEP = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}


def finish(process) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def emitted_steps(sidecar: Command) -> dict[int, list[int]]:
    """Of the newest run, by rank."""
    out, _ = sidecar("export", "latest").communicate(timeout=60)
    rows = [row for row in map(json.loads, out.splitlines()) if row["kind"] == "step"]
    return {rank: [row["step"] for row in rows if row["rank"] == rank] for rank in {row["rank"] for row in rows}}


def test_a_launch_that_outlives_the_one_with_the_sidecar_goes_on_being_monitored(
    sidecar: Command, script: Path, tmp_path: Path
) -> None:
    words = ("run", "--grace", "1", "--", sys.executable, str(script))
    first = sidecar(*words, "50", **STEP, SLURM_PROCID="0")
    begun = wait_until_ready(tmp_path / "data")
    second = sidecar(*words, "700", **STEP, SLURM_PROCID="1")
    assert finish(first)[0] == 0
    assert not live.is_alive(begun["pid"])
    code, err = finish(second)
    assert code == 0
    assert f"was there before (pid {begun['pid']})" in err
    assert "was started again" in err
    assert emitted_steps(sidecar) == {0: list(range(1, 51)), 1: list(range(1, 701))}
    assert not (tmp_path / "data" / "endpoints.json").exists()


def test_a_sidecar_that_nobody_launched_is_not_replaced_when_it_ends(
    sidecar: Command, script: Path, tmp_path: Path
) -> None:
    serving = sidecar("serve")
    wait_until_ready(tmp_path / "data")
    launched = sidecar("run", "--grace", "1", "--", sys.executable, str(script), "150")
    assert any("was there before" in line for line in launched.stderr)
    serving.terminate()
    finish(serving)
    code, err = finish(launched)
    assert code == 0
    assert "was started again" not in err
    again = sidecar("serve")  # At the same endpoint: it takes what the first one could not.
    wait_until_ready(tmp_path / "data")
    again.terminate()
    finish(again)
    assert emitted_steps(sidecar) == {0: list(range(1, 151))}


class LostRace:
    """A service that finds the directory taken when it starts, and free later."""

    def __init__(self, *given: object, of_before: live.Live | None) -> None:
        self.of_before = of_before

    def start(self) -> None: ...

    def wait_until_ready(self) -> live.Live:
        raise UserError("taken", "use that one", Exit.BUSY)

    def revive(self, now: float) -> bool:
        return True


def test_a_launch_that_was_too_slow_to_start_the_sidecar_replaces_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = live.Live("http://127.0.0.1:9", "ipc:///of-the-first", 2**22 + 1)  # No process has such a pid.
    monkeypatch.setattr(supervise, "Service", LostRace)
    monkeypatch.setattr(supervise, "owner_of", lambda config, seconds: ended)
    monkeypatch.setattr(live, "status", lambda at, config: {"sidecar": {"launcher_pid": 1}})
    launch = Launch(load({"dir": str(tmp_path)}, {}), ["true"], {}, quiet=True)
    launch._use(launch._start())
    assert launch._restart_sidecar()
    assert launch._service.of_before == ended
