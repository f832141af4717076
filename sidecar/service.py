"""The sidecar process: what starts in which order, what stops in the opposite one.

Given: a Config. Hands on: an exit code. Never: serves a folder that another sidecar serves, announces itself before
it is ready, or waits without a limit when it is told to stop.

Consumers start before producers (web and sinks, then collectors, then the intake), and stop after them, so that
everything that was accepted still finds its way out.
"""

import fcntl
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import zmq

import sidecar
from sidecar import abandoned, descriptors, wire
from sidecar.abandoned import Abandoned
from sidecar.atomic_file import write_atomic
from sidecar.command_end import EndedCommands
from sidecar.config import Config
from sidecar.errors import Exit, UserError
from sidecar.hardware.sampler import Sampler
from sidecar.intake import Intake
from sidecar.journal import Journal
from sidecar.journal_format import Checkpoint
from sidecar.pipeline import Pipeline
from sidecar.recovery import Recovery
from sidecar.rendezvous import default_endpoint, endpoint_key, ipc_endpoint
from sidecar.retention import make_room
from sidecar.ring import DRAFT_SECONDS_MAX
from sidecar.sinks.manager import SinkManager
from sidecar.store import Store
from sidecar.telemetry import Telemetry
from sidecar.trainers import Trainers, is_alive
from sidecar.waker import Waker
from sidecar.web.app import create_app
from sidecar.web.security import Security, check_bind
from sidecar.web.server import WebServer, bind

log = logging.getLogger("sidecar.service")

ANNOUNCE_SECONDS = 1.0
SCAN_SECONDS = 1.0  # How soon a dead trainer's tail is in the journal.
RETENTION_SECONDS = 10.0
PORTS_TRIED = 20
STOP_SECONDS_MAX = 3.0  # Of one thread.
INTAKE_DRAIN_SECONDS_MAX = 1.0
DRAIN_SECONDS_MAX = 5.0
FAULT_SECONDS = 0.05  # After a round that failed: a fault that lasts must not use up a core beside the training.
LAUNCHER_VARIABLE = "SIDECAR_LAUNCHER_PID"
SWITCH_SECONDS = 0.0005  # See _shorten_switch_interval.


class PeriodicTask:
    """A function to call once in each period. When it raises, it is called again in the next period."""

    def __init__(self, period_seconds: float, function: Callable[[], None]) -> None:
        self._period_seconds, self._function, self._due = period_seconds, function, 0.0

    def run_if_due(self, now: float) -> None:
        """``now``: monotonic seconds."""
        if now >= self._due:
            self._due = now + self._period_seconds
            self._function()


class Service:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        self._stopping = Waker()
        self._store = Store(config.data_directory)
        self._telemetry = Telemetry(
            started_ns=time.time_ns(), version=sidecar.__version__, pid=os.getpid(), data_dir=config.dir,
            launcher_pid=_launcher_pid(os.environ) if not config.keep else None,
        )
        self._intake = Intake(self._store, self._telemetry, streams_max=config.streams_max, runs_max=config.runs_max)
        self._pipeline = Pipeline(self._store, self._telemetry, snapshot_steps=config.snapshot_steps)
        self._sinks = SinkManager(config, self._store, self._telemetry, resumes=True)
        self._sampler = Sampler(self._telemetry, self._journal_hardware, config.sample_seconds, config.disks)
        self._trainers = Trainers()
        self._abandoned = Abandoned(self._store, self._intake.submit)
        self._ended_commands = EndedCommands(
            config.data_directory, self._intake.submit, partial(self._intake.round, poll_seconds=0.0)
        )
        self._endpoint_lock: int | None = None
        self._announced = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Raises UserError when it cannot start."""
        self._store.prepare()
        self._store.lock()
        descriptors.raise_limit()
        _tune_garbage_collection()
        _shorten_switch_interval()
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            http_socket = self._bind_http()
            endpoint = self._bind_events()
            self._connect_parts(endpoint)
            threading.Thread(target=self._read_store, name="runs", daemon=True).start()  # The first time takes longest.
            web = WebServer(create_app(self._pipeline.views, self._security), http_socket)
            web.start()
            core = threading.Thread(target=self._serve_events, name="intake", daemon=True)
            self._pipeline.start()
            self._sampler.start()
            core.start()
            with self._stopping.woken_by_signals():
                while not self._stop.is_set():
                    self._stopping.wait()
            self._shut_down(core, web)
        finally:
            self._config.endpoints_file.unlink(missing_ok=True)
            self._store.unlock()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return 0

    def _on_signal(self, number: int, frame: object) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # The second signal. What is committed is safe; do not wait for the rest.
        self._stop.set()

    def _bind_http(self) -> socket.socket:
        config = self._config
        self._security = Security(host=config.host, token=config.token, allowed_hosts=config.allowed_hosts)
        check_bind(self._security)
        try:
            bound = bind(config.host, config.port, tries=PORTS_TRIED)
        except OSError as error:
            raise UserError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}",
                "choose another with --port N (0: any free one) or --host ADDRESS",
                Exit.PORT,
            ) from error
        host, port = bound.getsockname()[:2]
        self._telemetry.http_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return bound

    def _bind_events(self) -> str:
        """Bind the configured endpoint, else the default one, else (another sidecar has that) one of this folder."""
        wanted = self._config.endpoint
        endpoint = wanted or default_endpoint()
        if not self._lock_endpoint(endpoint):
            if wanted:
                raise UserError(
                    f"another sidecar already listens at {endpoint}",
                    "stop it, or choose another with --endpoint",
                    Exit.BUSY,
                )
            endpoint = ipc_endpoint(f"events-{endpoint_key(self._config.dir)}")
            self._lock_endpoint(endpoint)
        try:
            self._intake.bind(endpoint)
        except zmq.ZMQError as error:
            raise _cannot_listen(endpoint, error) from error
        except OSError as error:
            raise UserError(f"{error.strerror}", "raise their limit: ulimit -n 4096", Exit.FAILED) from error
        self._telemetry.events_endpoint = endpoint
        return endpoint

    def _lock_endpoint(self, endpoint: str) -> bool:
        """A second bind to an ipc path silently steals it: hold a lock beside it."""
        if not endpoint.startswith("ipc://") or endpoint.startswith("ipc://@"):
            return True
        try:
            fd = os.open(endpoint.removeprefix("ipc://") + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot_listen(endpoint, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._endpoint_lock = fd
        return True

    def _read_store(self) -> None:
        """What earlier sidecars left: once at the start, and again when all who live have spoken."""
        self._store.settle()
        self._store.runs()
        if not self._stop.wait(abandoned.SILENT_SECONDS):
            self._abandoned.end()

    def _connect_parts(self, endpoint: str) -> None:
        self._recovery = Recovery(self._intake, self._telemetry, endpoint)
        self._intake.on_hello = self._greet
        self._intake.on_committed = self._committed
        self._intake.summary_of = self._pipeline.summary_of
        self._pipeline.fetch = self._intake.fetch
        self._pipeline.on_snapshot_due = self._sampler.request_snapshot
        self._pipeline.on_checkpoint = self._save_checkpoint
        self._pipeline.on_state_changed = self._store_summary

    def _committed(self, run_id: str) -> None:
        self._pipeline.notify(run_id)
        self._sinks.notify(run_id)

    def _save_checkpoint(self, run_id: str, checkpoint: Checkpoint) -> None:
        self._intake.write(run_id, "checkpoint", lambda journal: journal.checkpoint(checkpoint))

    def _greet(self, hello: wire.Hello, received_ns: int) -> None:
        self._pipeline.run_started(hello.run_id, hello.time_ns)
        self._trainers.greet(hello)
        self._abandoned.greet(hello)
        self._ended_commands.greet(hello)
        self._sinks.run_started(hello)  # Last: it opens files and starts threads, and may fail.

    def _journal_hardware(self, reading: wire.Hardware, steps: Mapping[str, int]) -> None:
        """``steps``: of the runs that asked for this reading."""
        for run_id in self._pipeline.live_run_ids():
            self._intake.submit(run_id, msgspec.structs.replace(reading, step=steps.get(run_id)))

    def _serve_events(self) -> None:
        """The intake's thread: rounds of the intake, and between them what has to be done now and then."""
        tasks = [
            PeriodicTask(ANNOUNCE_SECONDS, self._announce),
            PeriodicTask(SCAN_SECONDS, self._check_trainers),
            PeriodicTask(RETENTION_SECONDS, self._enforce_retention),
            PeriodicTask(DRAFT_SECONDS_MAX, lambda: self._recovery.remove_drafts(time.time())),
        ]
        logged = ""
        while not self._stop.is_set():
            try:
                for task in tasks:
                    task.run_if_due(time.monotonic())
                self._intake.round()
            except Exception as error:  # noqa: BLE001 - task boundary: one fault must not end the intake of all others
                self._telemetry.frames_rejected_total["internal_error"] += 1
                if repr(error) != logged:  # Once for each condition, not for each round.
                    logged = repr(error)
                    log.exception("a round of the intake failed")
                self._stop.wait(FAULT_SECONDS)

    def _check_trainers(self) -> None:
        self._note_ends()
        pids = self._trainers.pids()
        self._sampler.set_trainers(pids)
        if not pids and self._launcher_is_gone():
            log.warning("the launcher is gone, and no training process is left")
            self._stop.set()
            self._stopping.wake()

    def _note_ends(self) -> None:
        """Journal the ends of training processes that did not say Finished, and of a launcher's commands."""
        commands = self._ended_commands.waiting()
        for hello in self._recovery.scan():
            self._trainers.ended(hello)
            reason = "the training process is gone"  # Ignored where the process had said goodbye.
            ended = wire.RankEnded(time.time_ns(), time.monotonic_ns(), hello.rank, hello.session, reason)
            self._intake.submit(hello.run_id, ended)
        self._ended_commands.take(commands)

    def _launcher_is_gone(self) -> bool:
        launcher = self._telemetry.launcher_pid
        return launcher is not None and not is_alive(launcher)

    def _enforce_retention(self) -> None:
        """Journals that outgrew their bound give up what every sink has; more only when they must, counted."""
        journals = self._intake.journals()
        for run_id, _ in journals:
            self._intake.write(run_id, "retention", partial(self._make_room, self._sinks.passed_row(run_id)))
        self._telemetry.journal.bytes = sum(journal.used_bytes() for _, journal in journals)

    def _make_room(self, passed_row: int | None, journal: Journal) -> None:
        removed = make_room(journal, passed_row, self._config.journal_bytes_max)
        if removed.unsent_events:
            self._telemetry.events_lost_total["journal_cap"] += removed.unsent_events

    def _announce(self) -> None:
        """Once ready: whoever waits for this file may connect. On a full disk, tried again until it is there."""
        if self._announced:
            return
        telemetry = self._telemetry
        facts = {"http": telemetry.http_url, "events": telemetry.events_endpoint, "pid": telemetry.pid}
        write_atomic(self._config.endpoints_file, msgspec.json.encode(facts))
        self._announced = True

    def _shut_down(self, core: threading.Thread, web: WebServer) -> None:
        """Producers first; nothing is waited for without a limit."""
        self._sampler.stop()
        self._intake.wake()
        core.join(STOP_SECONDS_MAX)
        intake_is_ours = not core.is_alive()
        if intake_is_ours:
            self._drain_intake()
            self._note_ends()
        else:
            log.error("the intake does not end, perhaps for a slow disk: what is not committed stays with the trainers")
        self._pipeline.stop(DRAIN_SECONDS_MAX)
        if intake_is_ours:
            for run_id in self._pipeline.views.run_ids():
                self._store_summary(run_id)
            self._intake.round(poll_seconds=0.0)
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        followed = self._pipeline.views.run_ids()  # What runs of earlier days owe, a later sidecar sends.
        while self._sinks.is_worth_waiting(followed) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._sinks.close(timeout_seconds=DRAIN_SECONDS_MAX)
        web.stop(STOP_SECONDS_MAX)
        if intake_is_ours:
            self._intake.close()

    def _drain_intake(self) -> None:
        """Take what has already arrived, within a limit: trainers that go on never stop sending."""
        deadline = time.monotonic() + INTAKE_DRAIN_SECONDS_MAX
        while self._intake.round(poll_seconds=0.05) and time.monotonic() < deadline:
            pass

    def _store_summary(self, run_id: str) -> None:
        """For `sidecar runs`, which reads the journals alone. At once: it must not say less than /status does."""
        blob = self._pipeline.summary_of(run_id)
        if blob is not None:
            self._intake.write(run_id, "summary", lambda journal: journal.put_summary(blob), at_once=True)


def _launcher_pid(environ: Mapping[str, str]) -> int | None:
    launcher = environ.get(LAUNCHER_VARIABLE, "")
    return int(launcher) if launcher.isdecimal() else None


def _cannot_listen(endpoint: str, error: OSError | zmq.ZMQError) -> UserError:
    return UserError(
        f"cannot listen for events at {endpoint}: {error.strerror}", "choose another with --endpoint", Exit.PORT
    )


def _tune_garbage_collection() -> None:
    """Folding makes many short-lived objects and hardly any cycles: collecting less often saves 5-8 % of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _shorten_switch_interval() -> None:
    """Let a thread wait less long before the one that holds the interpreter lock must hand it over.

    A scrape needs the lock about eight times (accept, read, write, close). While events are folded, the default of 5 ms
    turned half a millisecond of work into 20 ms. An interval ten times shorter did not slow the fold measurably.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
