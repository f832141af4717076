"""``sidecar run``: a sidecar, a training command under it, and an orderly end.

Given: a loaded configuration, a command, an environment. Hands on: the command's exit code.
Never: starts the command when the sidecar could not be started, ends it when the sidecar dies, changes a variable
of the user's, or waits for anything without a limit.
"""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sidecar import banner, card, command_end, drain, launched, live, rendezvous, supervise
from sidecar.child import Child, resolve
from sidecar.config import Config, Loaded, default_data_directory
from sidecar.errors import Exit, UserError, one_line
from sidecar.launch_identity import identify, lacks_common_id
from sidecar.live import Live
from sidecar.numbering import numbered

PROGRESS_FIRST_SECONDS = 10.0
PROGRESS_TERMINAL_SECONDS = 10.0
PROGRESS_LOG_SECONDS = 60.0
TICK_SECONDS = 1.0
ERASE_LINE = "\r\x1b[K"
RACE_SECONDS_MAX = 10.0


class Launch:
    """One ``sidecar run``. ``run()`` is the whole story."""

    def __init__(
        self, loaded: Loaded, command: list[str], environ: dict[str, str], *, quiet: bool = False,
        capture: dict[str, str] | None = None,
    ) -> None:
        """``capture`` are further variables for the command alone, from ``sidecar.capture_env``."""
        self._capture = capture or {}
        self._loaded, self._config = loaded, loaded.config
        self._command, self._environ, self._quiet = command, environ, quiet
        self._service: supervise.Service | None = None
        self._at: Live
        self._is_anothers = False
        """The sidecar in use was started by another launch, and ends with that one."""
        self._began_ns = time.time_ns()
        self.run_id, self._launch_id = identify(self._config.run_id, environ, time.time())
        self._linked: set[str] = set()

    def run(self) -> int:
        """Raises UserError before the command has started; afterwards the exit code is the command's."""
        environ = resolve(self._command, self._environ)
        self._use(self._attach() or self._start())
        try:
            given = for_trainer(self._config, self._at.events, self.run_id, self._launch_id)
            child = Child(self._command, environ | given | self._capture)
        except UserError:
            self._stop()
            raise
        self._say(self._banner())
        if lacks_common_id(self._config.run_id, self._command, self._environ):
            self._say(["several nodes: with the same --run-id on each they are one run; this one's is its own"])
        code = self._accompany(child)
        try:
            self._end(child, code)
        except Exception as error:  # noqa: BLE001  # Whatever fails from here on, the shell must get the command's code.
            self._print(f"sidecar: the end was not orderly: {error!r}")
            self._stop()
        child.release()
        return code

    def _attach(self) -> Live | None:
        found = live.find(self._config)
        if found is not None:
            self._say([f"using the sidecar that already serves {self._config.dir} (pid {found.pid})"])
        return found

    def _use(self, at: Live) -> None:
        self._at = at
        self._is_anothers = self._service is None and _belongs_to_a_launch(at, self._config)

    def _start(self, before: Live | None = None) -> Live:
        """Our own sidecar, at the addresses of the one ``before``; or another launch's, if that was quicker."""
        self._service = self._new_service(before)
        self._service.start()
        try:
            return self._service.wait_until_ready()
        except UserError as error:
            self._service = None
            other = supervise.owner_of(self._config, RACE_SECONDS_MAX) if error.exit_code == Exit.BUSY else None
            if other is None:
                raise
            return other

    def _new_service(self, before: Live | None) -> supervise.Service:
        endpoint = self._endpoint() if before is None else before.events
        return supervise.Service(self._loaded, endpoint, self._environ, of_before=before)

    def _endpoint(self) -> str:
        """The configured endpoint; else the default one, or for a non-default data directory a private one."""
        if self._config.endpoint is not None:
            return self._config.endpoint
        return endpoint_for(self._config.dir, default_data_directory(self._environ))

    def _accompany(self, child: Child) -> int:
        """Until the command has ended: forward signals, restart a dead sidecar, report progress."""
        period = PROGRESS_TERMINAL_SECONDS if sys.stderr.isatty() else PROGRESS_LOG_SECONDS
        next_news = time.monotonic() + PROGRESS_FIRST_SECONDS
        while True:
            code = child.wait(TICK_SECONDS)
            if code is not None:
                return code
            if self._restart_sidecar():
                self._say(["the sidecar had ended and was started again; training goes on, nothing is lost"])
            if not self._quiet and time.monotonic() >= next_news:
                next_news = time.monotonic() + period
                status = self._status()
                fresh = [line for line in banner.links(status) if line not in self._linked]
                self._linked.update(fresh)
                self._say(fresh)
                line = banner.progress(status)
                if line:
                    to_stderr(one_line_keeping_columns(line), over_bar=True)

    def _restart_sidecar(self) -> bool:
        """If it has ended: by itself, or with another launch that had started it for itself. Of several launches the
        quickest starts the next one, and the others use that."""
        if self._service is None:
            if not self._is_anothers or live.is_alive(self._at.pid):
                return False
        elif self._service.is_running():
            return False
        if (found := live.find(self._config)) is not None:
            self._service = None
            self._use(found)
            return False
        self._is_anothers = False
        self._service = self._service or self._new_service(self._at)
        return self._service.revive(time.monotonic())

    def _outlast_others(self) -> None:
        """Of a launch that uses another's sidecar: if that one is ending now, what this launch left needs the next."""
        deadline = time.monotonic() + supervise.STOP_SECONDS_MAX
        while self._is_anothers and live.find(self._config) is None and time.monotonic() < deadline:
            if not live.is_alive(self._at.pid):
                self._use(self._start(self._at))
                return
            time.sleep(supervise.POLL_SECONDS)

    def _end(self, child: Child, code: int) -> None:
        """Wait for what is in flight, read the last status, stop the sidecar, print the summary card."""
        self._outlast_others()
        ours = self._service is not None
        news = self._leave_news(child, code)
        status = drain.wait(
            self._status, self._config.grace_seconds, pause=child.pause, serving=ours,
            told=lambda: news is None or not news.exists(), lacking=self._sinks,
        )  # fmt: skip
        at = self._where()
        if self._config.keep and ours:
            self._say([f"the sidecar stays (pid {at.pid}, {at.http}): end it with kill {at.pid}"])
        elif not self._stop():
            self._say(["the sidecar did not end in time and was killed; its journal is complete"])
        if not self._quiet:
            self._print_card(status, code)

    def _print_card(self, status: dict[str, Any], code: int) -> None:
        if code or not status:  # What the journal says of the end is newer than that status.
            found = launched.newest_run(self._config.data_directory, self._launch_id, self._began_ns)
            status = status | drain.from_journal(self._config, status.get("run_id") or found or self.run_id)
        status = drain.without_others(status, self._config.sinks, self._sinks())
        if run_id := status.get("run_id"):
            sync = card.sync_command(self._config, run_id, status)
            self._print_all(card.card(self._config, status, drain.first_loss(self._config, run_id), sync, code))

    def _sinks(self) -> dict[str, bool] | None:
        """The sinks of this launch's runs, and whether each lacks rows of theirs. None: not known."""
        hellos = launched.hellos(self._config.data_directory, self._launch_id, self._began_ns)
        journals = {hello.run_id: path for path, hello in hellos}
        return drain.sinks_of(self._config.data_directory, journals) if journals else None

    def _leave_news(self, child: Child, code: int) -> Path | None:
        """How the command ended, for the sidecar, where that makes a difference."""
        if not code:
            return None
        end = command_end.CommandEnd(
            self._launch_id, socket.gethostname(), child.pid, self._began_ns, time.time_ns(), time.monotonic_ns(), code
        )
        return command_end.leave(self._config.data_directory, end)

    def _stop(self) -> bool:
        return self._service is None or self._service.stop()

    def _where(self) -> Live:
        """Where our sidecar is now: its address may change when it is restarted."""
        self._at = (self._service.ready() if self._service is not None else None) or self._at
        return self._at

    def _status(self) -> dict[str, Any]:
        """The status of the run this launch is at; empty when there is none yet, or no answer."""
        at = self._where()
        run_id = launched.newest_run(self._config.data_directory, self._launch_id, self._began_ns)
        try:
            return live.status(at, self._config, run_id or self.run_id, timeout_seconds=1.0)
        except live.Unreachable:
            return {}

    def _banner(self) -> list[str]:
        sinks = banner.sink_lines(self._config, self._status(), self._environ)
        ours = self._service is not None
        token = sys.stderr.isatty()
        return banner.banner(
            self._config, self._at, self.run_id, sinks, ours=ours, environ=self._environ, token=token
        )

    def _say(self, lines: list[str]) -> None:
        if not self._quiet:
            self._print_all([f"sidecar: {line}" for line in lines])

    def _print_all(self, lines: list[str]) -> None:
        for line in lines:
            self._print(line)

    def _print(self, line: str) -> None:
        to_stderr(one_line_keeping_columns(line))


def _belongs_to_a_launch(at: Live, config: Config) -> bool:
    """False under ``sidecar serve``: whoever has started that one starts it again."""
    try:
        return bool((live.status(at, config).get("sidecar") or {}).get("launcher_pid"))
    except live.Unreachable:
        return False


def for_trainer(config: Config, endpoint: str, run_id: str, launch_id: str) -> dict[str, str]:
    """The variables that a training command is given beside its own."""
    given = {
        "SIDECAR_ENDPOINT": endpoint,
        "SIDECAR_RUN_ID": run_id,
        "SIDECAR_LAUNCH_ID": launch_id,
        "SIDECAR_DIR": config.dir,
    }
    if config.project:
        given["SIDECAR_PROJECT"] = config.project
    if config.name:
        given["SIDECAR_NAME"] = numbered(config.data_directory, config.name)
    return given


def to_stderr(line: str, *, over_bar: bool = False) -> None:
    """Print a line; drop it when nobody reads any more (a closed pipe, a terminal that is gone): training goes on.

    ``over_bar``: on a terminal, in the place of the command's progress bar, which the command draws again.
    """
    with contextlib.suppress(OSError, ValueError):
        print(f"{ERASE_LINE if over_bar and sys.stderr.isatty() else ''}{line}", file=sys.stderr, flush=True)


def one_line_keeping_columns(text: str) -> str:
    """Control characters made visible; blanks kept."""
    return "".join(char if char.isprintable() else one_line(f"{char}") for char in text)


def endpoint_for(directory: str, default_directory: str) -> str:
    """The default endpoint for the default directory. Any other directory has its own, so that launches never mix."""
    real = os.path.realpath(directory)
    if real == os.path.realpath(default_directory):
        return rendezvous.default_endpoint()
    return rendezvous.ipc_endpoint(f"events-{rendezvous.endpoint_key(real)}")
