"""The served OpenAPI document against the served application: generated requests, valid and not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.web.conftest import Server
from tests.web.fake_views import FakeViews, make_snapshot


def test_every_answer_is_as_published(serve: Callable[..., Server]) -> None:
    server = serve(FakeViews(make_snapshot()))
    config = Path(__file__).with_name("schemathesis.toml")
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run"]
    # The stream has no end: it has tests of its own. No database: an example of an earlier run would be tried again.
    options = ["--exclude-path", "/api/v1/stream", "--max-examples", "25", "--seed", "20261121", "--no-color"]
    options += ["--generation-database", "none", f"{server.url}/openapi.json"]
    found = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
