"""A real sidecar and a small real training script, for tests of the commands as a whole."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import Command

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys, time
import sidecar
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
run = sidecar.init(project="tests", name="small", stage="pretrain", total_steps=steps, config={"lr": 0.1})
for step in range(1, steps + 1):
    run.dataset("web", samples=2, tokens=64)
    run.step(step, loss=float("nan") if step == 3 else 4.0 / step, learning_rate=1e-3, tokens=64, samples=2)
    time.sleep(0.01)
run.log({"val/loss": 1.5, "odd": float("inf")}, step=steps)
run.text("sample/hello", "he said \\u201chi\\u201d,\\nand left", step=steps)
run.finish()
"""

@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A training script of a few steps with a NaN, an infinity and a text."""
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Command]:
    """Start ``sidecar ARGUMENTS`` on a directory of its own; whatever still runs at the end is stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
        own = {"SIDECAR_DIR": str(tmp_path / "data"), "SIDECAR_PORT": "0", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sidecar", *arguments],  # Like the installed command.
            env=os.environ | own | environ,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def trained(sidecar: Command, script: Path, tmp_path: Path) -> Path:
    """A data directory with one finished run of five steps, id "r1"."""
    process = sidecar("run", "-q", "--run-id", "r1", "--", sys.executable, str(script))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return tmp_path / "data"
