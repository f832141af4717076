# ruff: noqa: E501 - scripts and tables read better on one line
"""A sidecar listening, and scripts of real libraries run as a user runs them."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.capture.conftest import Listener, captured, listener  # noqa: F401 - fixtures


@pytest.fixture
def script(listener: Listener, tmp_path: Path, repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:  # noqa: F811
    """Run a script's text; with ``ranks`` > 1 under torchrun on gloo."""

    def run(text: str, ranks: int = 1, launch_id: str = "test") -> subprocess.CompletedProcess[str]:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(text))
        environ = {
            **os.environ, "SIDECAR_ENDPOINT": listener.endpoint, "PYTHONPATH": str(repository), "CUDA_VISIBLE_DEVICES": "",
            "SIDECAR_LAUNCH_ID": launch_id, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        launch = [sys.executable] if ranks == 1 else [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)
        ]  # fmt: skip
        done = subprocess.run([*launch, str(path)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run
