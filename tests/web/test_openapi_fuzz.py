"""The served OpenAPI document against the served application: generated requests, valid and not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.web.conftest import Server
from tests.web.fakes import FakeViews, make_snapshot


def test_every_answer_is_as_published(serve: Callable[..., Server]) -> None:
    server = serve(FakeViews(make_snapshot()))
    command = [Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"]
    # The stream has no end: it has tests of its own.
    options = ["--exclude-path", "/api/v1/stream", "--max-examples", "25", "--seed", "20261121", "--no-color"]
    found = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
