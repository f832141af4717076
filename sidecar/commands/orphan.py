"""A sidecar whose launcher was killed: it must not live for ever, and must not leave before the trainer.

Given: the launcher's pid in the environment. Hands on: SIGTERM to this process when it is no longer needed.
Never: acts while the launcher lives, with --keep, or while a trainer that was seen still runs.
"""

import os
import signal
import threading
import time

from sidecar import live
from sidecar.config import Config
from sidecar.drain import ENDED

PERIOD_SECONDS = 2.0
IDLE_SECONDS = 30.0


def watch_launcher(config: Config, launcher_pid: int | None = None) -> None:
    """Start the watch, if ``sidecar run`` is our parent."""
    pid = launcher_pid or int(os.environ.pop("SIDECAR_LAUNCHER_PID", "0") or 0)
    if pid and not config.keep:
        threading.Thread(target=_watch, args=(config, pid), name="orphan-watch", daemon=True).start()


def _watch(config: Config, launcher_pid: int) -> None:
    while os.getppid() == launcher_pid:
        time.sleep(PERIOD_SECONDS)
    idle_since = time.monotonic()
    while time.monotonic() - idle_since < max(IDLE_SECONDS, config.grace_seconds):
        time.sleep(PERIOD_SECONDS)
        if _is_busy(config):
            idle_since = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)


def _is_busy(config: Config) -> bool:
    """Any rank of the run last started whose process has not ended."""
    found = live.read_endpoints(config.data_directory)
    if found is None:
        return False
    try:
        status = live.status(found, config)
    except live.Unreachable:
        return False
    return status.get("run_id") is not None and status.get("state") not in ENDED
