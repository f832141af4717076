"""What several tests of the commands need."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., "subprocess.Popen[str]"]


def wait_until_ready(directory: Path, timeout_seconds: float = 30.0) -> dict[str, Any]:
    """The content of endpoints.json once it is there."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            return json.loads((directory / "endpoints.json").read_text())
        except FileNotFoundError:
            time.sleep(0.02)
    raise AssertionError(f"no endpoints.json in {directory} after {timeout_seconds} s")
