"""Real components on loopback: Prometheus and a sidecar with eight (fake) GPUs."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.deploy.promql import DEPLOY
from tests.fakes.nvml.fake import FakeGpus, build

REPOSITORY = DEPLOY.parent
PATIENCE_SECONDS = 60.0


def _needs(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        missing = f"{program} not installed: apt-get install {package}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    return str(path)


@pytest.fixture(scope="session")
def promtool() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    program = _needs("promtool", "prometheus")
    return lambda *arguments: subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's first true value; fails the test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            value = condition()
            if value:
                return value
        time.sleep(0.2)
    return pytest.fail(f"{what}: not within {seconds:.0f} s")


def get(url: str, **parameters: str) -> bytes:
    query = f"?{urlencode(parameters)}" if parameters else ""
    with urllib.request.urlopen(url + query, timeout=10) as answer:
        return bytes(answer.read())


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in its own session, ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=REPOSITORY,
            env=os.environ | environment,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Sidecar:
    """A real sidecar and one real training process that goes on until the test ends."""

    def __init__(self, url: str, state: FakeGpus) -> None:
        self.url, self.gpus = url, state


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    _needs("gcc", "gcc")
    folder = tmp_path_factory.mktemp("sidecar")
    state = FakeGpus(folder / "gpus")
    library = build(folder)
    with tempfile.TemporaryDirectory(prefix="sc") as short:  # A socket path has at most 107 bytes.
        endpoint = f"ipc://{short}/events"
        environment = {
            "LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML_STATE": str(state.path), "HOME": str(folder),
            "WANDB_MODE": "offline", "SIDECAR_RING_MB": "1",
        }
        serve = [sys.executable, "-m", "sidecar", "serve", "--dir", str(folder / "data"), "--endpoint", endpoint,
                 "--port", "0", "--sink", "wandb"]
        train = [sys.executable, str(Path(__file__).with_name("small_trainer.py")), endpoint]
        with running(serve, folder / "sidecar.log", **environment):
            endpoints = folder / "data/endpoints.json"
            url = wait_for("the sidecar", lambda: json.loads(endpoints.read_bytes())["http"])
            with running(train, folder / "trainer.log", PYTHONPATH=str(REPOSITORY)):
                wait_for("the first step", lambda: b"training_step{" in get(f"{url}/metrics"))
                yield Sidecar(url, state)


@pytest.fixture(scope="module")
def prometheus(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """A real Prometheus with the deployment's own configuration; only the target is another. Runs queries."""
    program = _needs("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(DEPLOY / "prometheus", folder / "etc")
    config = folder / "etc/prometheus.yml"
    target = "127.0.0.1:9797"
    assert config.read_text().count(target) == 1
    config.write_text(config.read_text().replace(target, sidecar.url.removeprefix("http://")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
               f"--web.listen-address=127.0.0.1:{port}"]

    def query(expr: str) -> list[Any]:
        answer = json.loads(get(f"http://127.0.0.1:{port}/api/v1/query", query=expr))
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    with running(command, folder / "prometheus.log"):
        wait_for("Prometheus", lambda: get(f"http://127.0.0.1:{port}/-/ready"))
        wait_for("the second scrape", lambda: query('count_over_time(up{job="trainer-sidecar"}[1m]) >= 2'))
        query.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield query
