"""The three lines for W&B and the three for TensorBoard in the README do what they say."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from fakes.wandb_server import KEY, WandbServer

SCRIPT = """
import sidecar
run = sidecar.init(project="documented", name="lines", stage="pretrain")
for step in range(1, 6):
    run.step(step, loss=4.0 / step, tokens=64)
run.finish()
"""


@pytest.fixture
def lines(repository: Path) -> dict[str, list[str]]:
    """Heading -> the lines of its first block."""
    text = (repository / "README.md").read_text()
    blocks = re.findall(r"^## ([^\n]+)\n\n((?:    [^\n]+\n)+)", text, re.MULTILINE)
    return {heading: [line.strip() for line in block.splitlines()] for heading, block in blocks}


@pytest.fixture
def environ(tmp_path: Path, repository: Path) -> dict[str, str]:
    """A user's shell with train.py in its folder and nothing else; `sidecar` and the rest are this Python's."""
    (tmp_path / "train.py").write_text(SCRIPT)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"python": "", "sidecar": "-m sidecar", "tensorboard": "-m tensorboard.main"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (programs / name).chmod(0o700)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SIDECAR_", "WANDB_", "XDG_"))}
    return kept | {
        "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(repository),
        "SIDECAR_PORT": "0", "SIDECAR_GRACE": "30",
        "SIDECAR_ENDPOINT": f"ipc://{tmp_path}/events",  # Not the user's: another trainer's ring may wait for that.
    }  # fmt: skip


def shell(script: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-euc", script], env=environ, cwd=environ["HOME"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_test_that_the_table_of_faults_names_exists(repository: Path) -> None:
    page = (repository / "docs/sinks.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (repository / "tests/sinks" / file).read_text(), (file, test)


def test_the_lines_for_wandb_send_a_run(lines: dict[str, list[str]], environ: dict[str, str]) -> None:
    assert len(lines["Weights & Biases"]) == 3
    with WandbServer() as server:
        script = "\n".join(lines["Weights & Biases"]).replace("=...", f"={KEY}")
        done = shell(script, environ | {"WANDB_BASE_URL": server.url})
        (run,) = server.runs.values()
        assert [row["train/global_step"] for row in run.history if "train/loss" in row] == [1, 2, 3, 4, 5]
        assert run.upserts[0]["displayName"] == "lines"
    assert done.stdout.endswith("nothing to send\n")
    link = f"{server.url}/team/documented/runs/{run.name}"
    assert f"wandb: ok (W&B initialized: documented/lines) {link}" in done.stderr  # On the card at the end.


def test_the_lines_for_tensorboard_show_a_run(
    lines: dict[str, list[str]], environ: dict[str, str], repository: Path
) -> None:
    install, run, look = lines["TensorBoard"]
    extra = re.fullmatch(r"pip install 'trainer-sidecar\[(\w+)\]'", install)
    assert extra
    assert extra[1] in tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    shell(run, environ)
    server = subprocess.Popen(
        ["bash", "-euc", f"exec {look} --port 0 --host 127.0.0.1"], env=environ, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        deadline, tags = time.monotonic() + 60, {}
        while not tags and time.monotonic() < deadline:
            with urllib.request.urlopen(address + "data/plugin/scalars/tags", timeout=30) as answer:
                tags = json.load(answer)
            time.sleep(0.2)
    finally:
        server.kill()
        server.communicate()
    assert [set(found) >= {"train/loss", "train/perplexity"} for found in tags.values()] == [True]
