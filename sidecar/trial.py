"""A real sidecar for a few seconds, in a temporary folder, with nothing of the user's: for selftest and bench.

Given: a folder. Hands on: a running ``sidecar serve`` that can be killed and started again, and an environment.
Never: reads the user's settings, keys or data, or leaves a process, a ring or a file behind.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidecar import live, recovery
from sidecar.config import Config
from sidecar.errors import Exit, UserError
from sidecar.interpreter import python
from sidecar.live import Live
from sidecar.supervise import SERVE

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
FOLDER_LENGTH_MAX = 80  # An ipc path has room for 107 bytes, its lock's name included.
NOT_INHERITED = ("SIDECAR_", "WANDB_", "SLURM_", "TORCHELASTIC_")


class Trial:
    """``start()`` it as often as you like; ``folder()`` below makes one and cleans up after it."""

    def __init__(self, directory: Path, sinks: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.endpoint = f"ipc://{directory}/events"
        self.config = Config(dir=str(directory / "data"), endpoint=self.endpoint, port=0, sinks=sinks)
        self.log = directory / "sidecar.log"
        self.environ = private_environment(directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[subprocess.Popen[str]] = []

    def start(self) -> Live:
        """Raises UserError with the service's last words when it does not get ready."""
        sinks = ",".join(self.config.sinks) or "none"
        command = [*SERVE, "--dir", self.config.dir, "--port", "0", "--sink", sinks]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--endpoint", self.endpoint], env=self.environ, cwd=self.directory,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            found = live.read_endpoints(self.config.data_directory)
            if found is not None and found.pid == self._process.pid:
                return found
            time.sleep(POLL_SECONDS)
        self.kill()
        words = self.log.read_text(errors="replace").strip().splitlines()
        raise UserError(
            f"the sidecar did not start: {words[-1] if words else 'no answer'}", "run `sidecar doctor`", Exit.NO_START
        )

    def kill(self) -> None:
        """As a crash would: SIGKILL, no goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code; 0 when none is running."""
        if self._process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGTERM)
            return self._process.wait(STOP_SECONDS_MAX)
        self.kill()
        return -signal.SIGKILL

    def status(self, run_id: str) -> dict[str, Any]:
        """Empty while there is no such run, or no answer."""
        found = live.read_endpoints(self.config.data_directory)
        try:
            return live.status(found, self.config, run_id) if found else {}
        except live.Unreachable:
            return {}

    def client(self, script: str, **environ: str) -> "subprocess.Popen[str]":
        """A training script in a process of its own; both its outputs are one pipe."""
        process = subprocess.Popen(
            python(script), env=self.environ | {"SIDECAR_ENDPOINT": self.endpoint} | environ,
            cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._clients.append(process)
        return process

    def end(self) -> None:
        """Stop everything that was started; a training script that still runs is killed."""
        for process in self._clients:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.stop()


@contextlib.contextmanager
def folder(sinks: tuple[str, ...] = ()) -> Iterator[Trial]:
    """A trial in a temporary folder; at the end its process is stopped, its rings and its files are removed."""
    base = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="sidecar-", dir=base if len(base) < FOLDER_LENGTH_MAX else "/tmp") as path:
        trial = Trial(Path(path), sinks)
        try:
            yield trial
        finally:
            trial.end()
            for ring in recovery.rings_of(trial.endpoint):
                ring.unlink(missing_ok=True)


def private_environment(directory: Path) -> dict[str, str]:
    """The user's environment without settings, keys and proxies; what libraries write goes to ``directory``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(NOT_INHERITED) and not name.lower().endswith("_proxy")
    }
    places = {
        "NETRC": "no-netrc", "WANDB_DIR": "wandb-files", "WANDB_CONFIG_DIR": "wandb-config",
        "WANDB_CACHE_DIR": "wandb-cache", "WANDB_DATA_DIR": "wandb-data", "XDG_DATA_HOME": "share",
    }  # fmt: skip
    source = str(Path(__file__).resolve().parent.parent)  # The same sidecar, also when it runs from a checkout.
    path = os.pathsep.join(part for part in (source, kept.get("PYTHONPATH", "")) if part)
    made = {name: str(directory / place) for name, place in places.items()}
    return kept | made | {"WANDB_MODE": "offline", "PYTHONPATH": path}
