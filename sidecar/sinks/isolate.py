"""A sink in a child process of its own, seen from here as an ordinary sink that cannot hang, fork or crash us.

Given: a sink's "module:Class" and its context. Hands on: the same methods, each with a time limit.
Never: lets the child see our environment beyond what it needs, waits longer than the limit, or leaves it behind: the
child ends when the socket to us does.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from sidecar.interpreter import python
from sidecar.rows import Row, RunInfo
from sidecar.sinks.base import Report, Sink, SinkContext, SinkDied, Unavailable

LENGTH = struct.Struct("<I")
LOG_BYTES_MAX = 1 << 20
CHILD = "from sidecar.sinks.child import main; main(int(sys.argv[1]))"

HARMLESS = (
    "PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR", "USER", "LOGNAME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "XDG_*",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
ALERT_SECONDS = 1.0
"""A child that dies sooner after it was given an alert may not have sent it."""
STAND_IN_MARK = "sidecar-stand-in"
"""A folder on PYTHONPATH that holds a file of this name carries stand-ins for captured libraries."""


class Start(msgspec.Struct, frozen=True, tag="start"):
    target: str
    context: SinkContext


class Open(msgspec.Struct, frozen=True, tag="open"):
    run: RunInfo


class Deliver(msgspec.Struct, frozen=True, tag="deliver"):
    number: int
    rows: list[Row]


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    pass


class Close(msgspec.Struct, frozen=True, tag="close"):
    pass


Request = Start | Open | Deliver | Flush | Close


class Done(msgspec.Struct, frozen=True, tag="done"):
    report: Report


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    kind: Literal["unavailable", "died", "rows"]
    reason: str


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Done | Failed)


class RowsRefused(RuntimeError):
    """The sink in the child raised an error that may be the rows' fault."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds each request may take before the child is taken for hung and killed."""

    open_seconds: float = 90.0
    deliver_seconds: float = 60.0
    flush_seconds: float = 60.0
    close_seconds: float = 30.0


class IsolatedSink(Sink):
    """Use from one thread. ``open`` starts the child when there is none."""


    def __init__(
        self, target: str, context: SinkContext, environment: Iterable[str] = (), limits: Limits | None = None
    ) -> None:
        self._target, self._context, self._limits = target, context, limits or Limits()
        self._environment = tuple(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._started = False
        self._report = Report()
        self._alerts_sent: set[str] = set()
        """Names of alerts that a child was given and had time to send: the next child must not send them again."""
        self._alerts_given: set[str] = set()
        self._opened_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def open(self, run: RunInfo) -> Report:
        if self._process is None:
            self._start()
        try:
            if not self._started:
                self._ask(Start(self._target, self._context), self._limits.open_seconds)
                self._started = True
            fresh = [alert for alert in run.alerts if alert[0] not in self._alerts_sent]
            report = self._ask(Open(msgspec.structs.replace(run, alerts=fresh)), self._limits.open_seconds)
            self._alerts_given.update(alert[0] for alert in fresh)
            self._opened_at = time.monotonic()
            return report
        except Unavailable:
            self.kill()  # Whatever half of it came up must not stand in the way of the next attempt.
            raise

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        self._ask(Deliver(number, list(rows)), self._limits.deliver_seconds)

    def flush(self) -> Report:
        report = self._ask(Flush(), self._limits.flush_seconds)
        if self._alerts_given and time.monotonic() - self._opened_at > ALERT_SECONDS:
            self._alerts_sent |= self._alerts_given
        return report

    def report(self) -> Report:
        return self._report

    def close(self) -> None:
        if self._process is None:
            return
        try:
            self._ask(Close(), self._limits.close_seconds)
            self._process.wait(5.0)
        finally:
            self.kill()

    def kill(self) -> None:
        """The child and everything it started are gone when this returns. May be called from another thread."""
        process, self._process, self._started = self._process, None, False
        self._alerts_given = set()
        if self._socket is not None:
            self._socket.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        directory = Path(self._context.data_dir) / "sinks"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with theirs, open_log(directory / f"{self._context.sink}.log") as log:
            self._process = subprocess.Popen(
                python(CHILD, str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=with_a_home(child_environment(os.environ, self._environment), directory),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the trainer; and one kill reaches all it started.
            )
        self._socket = ours

    def _ask(self, request: Request, limit_seconds: float) -> Report:
        if self._process is None or self._socket is None:
            raise SinkDied(f"{self._context.sink}: its process is not running")
        self._socket.settimeout(limit_seconds)
        try:
            send(self._socket, _encoder.encode(request))
            reply = _replies.decode(receive(self._socket))
        except TimeoutError:
            self.kill()
            doing = type(request).__name__.lower()
            raise SinkDied(f"{self._context.sink}: hung in {doing} for {limit_seconds:.0f} s, restarted") from None
        except (OSError, EOFError, msgspec.DecodeError) as error:
            code = self._exit_code()
            self.kill()
            raise SinkDied(
                f"{self._context.sink}: its process ended ({code or error}), restarted", by_itself=True
            ) from None
        if isinstance(reply, Done):
            self._report = reply.report
            return reply.report
        if reply.kind == "unavailable":
            raise Unavailable(reply.reason)
        if reply.kind == "died":
            self.kill()
            raise SinkDied(reply.reason)
        raise RowsRefused(reply.reason)

    def _exit_code(self) -> str:
        if self._process is None:
            return "stopped"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return ""


def send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(LENGTH.pack(len(data)) + data)


def receive(sock: socket.socket) -> bytes:
    """One frame. Raises EOFError when the other side is gone."""
    (length,) = LENGTH.unpack(_exactly(sock, LENGTH.size))
    return _exactly(sock, length)


def decode_request(data: bytes) -> Request:
    request: Request = _requests.decode(data)
    return request


def encode_reply(reply: Done | Failed) -> bytes:
    return _encoder.encode(reply)


def child_environment(environ: Mapping[str, str], globs: Iterable[str]) -> dict[str, str]:
    """Only the harmless variables and those the sink names; PYTHONPATH without any folder of stand-ins."""
    wanted = (*HARMLESS, *globs)
    kept = {key: value for key, value in environ.items() if any(fnmatchcase(key, glob) for glob in wanted)}
    folders = [folder for folder in environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    clean = [folder for folder in folders if not is_stand_in(folder)]
    if clean:
        kept["PYTHONPATH"] = os.pathsep.join(clean)
    return kept


def with_a_home(environ: dict[str, str], folder: Path) -> dict[str, str]:
    """``folder`` for a user without a home, as in a container with a user id of its own: wandb needs one."""
    if environ.get("HOME") or os.path.expanduser("~") != "~":
        return environ
    return {**environ, "HOME": str(folder)}


def is_stand_in(folder: str) -> bool:
    """Does this PYTHONPATH entry replace libraries of the trainer by ours?"""
    inside = Path(folder).resolve().is_relative_to(Path(__file__).resolve().parents[1])
    return inside or os.path.exists(os.path.join(folder, STAND_IN_MARK))


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[int]:
    """Where the child's own words go; started anew when it has grown."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = sock.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError("the other side is gone")
        data += chunk
    return bytes(data)
