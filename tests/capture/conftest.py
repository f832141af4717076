# ruff: noqa: E501 - scripts and tables read better on one line
"""A real intake in a thread, and scripts run as they would be: by their own Python, in their own folder."""

import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sidecar.capture_env import capture_environment
from sidecar.intake import Intake
from sidecar.journal_reader import JournalReader
from sidecar.recovery import Recovery
from sidecar.rendezvous import endpoint_key, ring_directories
from sidecar.rows import Projector, Row
from sidecar.store import Store
from sidecar.telemetry import Telemetry


class Listener:
    """What arrived at an endpoint, as rows."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint, self.store = endpoint, Store(folder)
        self.store.prepare()
        telemetry = Telemetry()
        self._intake = Intake(self.store, telemetry, streams_max=64, runs_max=64)
        self._recovery = Recovery(self._intake, telemetry, endpoint)
        self._intake.bind(endpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._recovery.scan()
            for _ in range(4):
                self._intake.round(0.02)
        self._intake.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def run_ids(self) -> list[str]:
        return [run.run_id for run in self.store.runs()]

    def projector(self, run_id: str) -> tuple[Projector, list[Row]]:
        reader = JournalReader(self.store.path(run_id))
        projector = Projector(run_id)
        known: set[int] = set()
        rows: list[Row] = []
        try:
            for record in reader.records():
                for hello in reader.hellos():
                    if hello.session not in known:
                        known.add(hello.session)
                        projector.greet(hello, hello.time_ns)
                rows += projector.feed(record)
        finally:
            reader.close()
        return projector, rows

    def rows(
        self,
        run_id: str | None = None,
        kinds: Sequence[str] = ("log",),
        wait: Callable[[list[Row]], bool] | None = None,
    ) -> list[Row]:
        """Rows of these kinds of the run (the only one, when not named); waits for them at most ten seconds."""
        deadline = time.monotonic() + 10
        while True:
            ids = [known for known in self.run_ids() if run_id in (None, known)]
            found = [row for row in self.projector(ids[0])[1] if row.kind in kinds] if ids else []
            if time.monotonic() > deadline or (found if wait is None else wait(found)):
                return found
            time.sleep(0.05)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with tempfile.TemporaryDirectory(prefix="sc") as folder:
        endpoint = f"ipc://{folder}/events"
        found = Listener(endpoint, Path(folder) / "data")
        yield found
        found.stop()
        for directory in ring_directories():
            for ring in directory.glob(f"{endpoint_key(endpoint)}-*.ring"):
                ring.unlink(missing_ok=True)


@pytest.fixture
def captured(listener: Listener, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script's text under capture; its rows arrive at ``listener``."""

    def run(
        script: str, capture: str = "wandb", code: int | None = 0, arguments: Sequence[str] = (), **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return execute(script, tmp_path, capture, {"SIDECAR_ENDPOINT": listener.endpoint, **environ}, code, arguments)

    return run


def execute(
    script: str, folder: Path, capture: str, environ: dict[str, str], code: int | None = 0, arguments: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    settings = {**os.environ, **environ}
    settings.update(capture_environment(capture.split(",") if capture else [], settings))
    done = subprocess.run(
        [sys.executable, str(path), *arguments], cwd=folder, env=settings, capture_output=True, text=True, timeout=120
    )
    assert code is None or done.returncode == code, done.stderr[-4000:]
    return done
