"""Several ``sidecar run`` on one data directory: the sidecar belongs to one of them, and monitoring to all."""

import json
import sys
from pathlib import Path

from cli_helpers import Command, wait_until_ready

from sidecar import live

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
