"""The service as a process of its own: started, waited for, watched, stopped.

Given: a loaded configuration. Hands on: the ``Live`` sidecar once it is ready.
Never: shares the terminal's process group with it (Ctrl-C must not end it before the trainer's last words), puts
a secret on a command line, or waits without a limit.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sidecar import live
from sidecar.config import FIELDS, Config, Loaded
from sidecar.errors import Exit, UserError
from sidecar.interpreter import python
from sidecar.live import Live

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
SERVE = tuple(python("from sidecar.cli import main; sys.exit(main())", "serve"))
RESTARTS_MAX = 5  # Within RESTARTS_SECONDS: a sidecar that dies at once must not be started without end.
RESTARTS_SECONDS = 3600.0
LAUNCHER_VARIABLE = "SIDECAR_LAUNCHER_PID"


class Service:
    """One ``sidecar serve`` and its log, DIR/sidecar.log."""

    def __init__(
        self, loaded: Loaded, endpoint: str, environ: Mapping[str, str], *, of_before: Live | None = None
    ) -> None:
        """``of_before``: the sidecar whose place this one takes when it is revived."""
        self._config = loaded.config
        self._environ = settings_as_variables(loaded, environ)
        self._environ["SIDECAR_ENDPOINT"] = endpoint
        self._environ[LAUNCHER_VARIABLE] = str(os.getpid())
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts: list[float] = []
        self._port = urlsplit(of_before.http).port if of_before is not None else None
        self.log_path = self._config.data_directory / "sidecar.log"

    def start(self) -> None:
        """Raises UserError when the data directory cannot be used, or no process can be started."""
        if self._port:  # Scrapers and open pages know that of the one before.
            self._environ["SIDECAR_PORT"] = str(self._port)
        try:
            self._config.data_directory.mkdir(parents=True, exist_ok=True)
            if self.log_path.exists():
                self.log_path.replace(self.log_path.with_suffix(".log.1"))
            log = self.log_path.open("wb")
        except OSError as error:
            raise UserError(
                f"cannot write to {self._config.dir}: {error.strerror}",
                "choose another directory with --dir, or correct its permissions",
                Exit.NOT_WRITABLE,
            ) from None
        with log:
            try:
                self._process = subprocess.Popen(
                    list(SERVE),
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_unblock_signals,  # Else a restarted one has the launcher's mask and ignores SIGTERM.
                )
            except OSError as error:  # No memory or no process left, or Python was uninstalled meanwhile.
                raise UserError(
                    f"the sidecar cannot be started: {error.strerror}",
                    "see what uses up memory and processes (ulimit -u)",
                    Exit.FAILED,
                ) from None

    def wait_until_ready(self) -> Live:
        """Raises UserError: the service's own words when it ended, or that it took too long."""
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            ready = self.ready()
            if ready is not None:
                return ready
            code = self._process.poll()
            if code is not None:
                raise self._failure(code)
            time.sleep(POLL_SECONDS)
        self.stop()
        raise UserError(
            f"the sidecar was not ready after {READY_SECONDS_MAX:.0f} s",
            f"read {self.log_path}; train without it by running the command alone",
            Exit.NO_START,
        )

    def ready(self) -> Live | None:
        """Where it is, once it has announced itself."""
        found = live.read_endpoints(self._config.data_directory)
        if self._process is None or found is None or found.pid != self._process.pid:
            return None
        self._port = urlsplit(found.http).port
        return found

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def revive(self, now: float) -> bool:
        """Restart it if it has ended by itself. False: it is alive, or has died too often in the last hour.

        ``now``: monotonic seconds.
        """
        if self.is_running():
            return False
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_SECONDS]
        if len(self._restarts) >= RESTARTS_MAX:
            return False
        self._restarts.append(now)
        try:
            self.start()
        except UserError:
            return False
        return True

    def stop(self) -> bool:
        """SIGTERM, a limited wait, SIGKILL. False when it had to be killed."""
        if self._process is None or self._process.poll() is not None:
            return True
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _failure(self, code: int) -> UserError:
        cause, remedy = last_error(self.log_path)
        if not cause:
            cause = f"the sidecar ended at once with exit code {code}"
            remedy = f"read {self.log_path}"
        known = code if code in set(Exit) and code else Exit.FAILED
        return UserError(cause, remedy, known)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def settings_as_variables(loaded: Loaded, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with every setting that somebody made as SIDECAR_*: not on the command line, where all can read."""
    made = dict(environ)
    for field in FIELDS:
        value = getattr(loaded.config, field)
        if loaded.origins[field] != "default" and value is not None:
            made[f"SIDECAR_{field.upper()}"] = _text(value)
    return made


def last_error(log_path: Path) -> tuple[str, str]:
    """The last "error:" line of a log and the "fix:" line after it; empty strings when there are none."""
    try:
        lines = log_path.read_text(errors="replace").splitlines()
    except OSError:
        return "", ""
    cause = remedy = ""
    for line in lines:
        if line.startswith("error: "):
            cause, remedy = line.removeprefix("error: "), ""
        elif line.startswith("fix: "):
            remedy = line.removeprefix("fix: ")
    if not cause and lines:
        cause, remedy = f"the sidecar ended: {lines[-1]}", f"read {log_path}"
    return cause, remedy


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def owner_of(config: Config, timeout_seconds: float) -> Live | None:
    """Wait for the sidecar of another launch that was quicker to take this directory. None: it did not answer."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        found = live.find(config)
        if found is not None:
            return found
        time.sleep(POLL_SECONDS)
    return None
