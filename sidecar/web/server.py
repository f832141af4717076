"""The HTTP server: uvicorn in a thread of its own, on a socket that was bound before.

Given: an ASGI application and a listening socket. Hands on: answers, until it is stopped.
Never: leaves the sidecar without HTTP after a fault, wakes without a request, or holds a
connection whose request does not end, or whose answer nobody takes.
"""

import asyncio
import contextlib
import logging
import socket
import threading
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidecar.errors import Exit, UserError
from sidecar.web.security import HEADERS_BYTES_MAX, App

log = logging.getLogger("sidecar.web")

CONNECTIONS_MAX = 256
BACKLOG = 256  # Connections that wait to be accepted.
REQUEST_HEAD_SECONDS = 10.0
ANSWER_STALLED_SECONDS = 60.0  # Without a byte of it taken.
KEEP_ALIVE_SECONDS = 20.0  # Longer than the usual scrape interval of 15 s: scrapers keep their connection.
RESTART_SECONDS = 1.0


class WebServer:
    """Serves from ``start`` to ``stop``. A fault in the server itself is logged, and it begins anew."""

    def __init__(self, app: App, bound: socket.socket) -> None:
        self._config, self._bound = _config(app), bound
        self._server = _Uvicorn(self._config)
        self._failure: BaseException | None = None
        self._has_started = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Returns when it answers. Raises UserError when it ends before that."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        if not self._server.started:
            self._bound.close()
            why = f": {self._failure!r}" if self._failure is not None else ""
            cause = f"the HTTP server ended while it was starting{why}"
            raise UserError(cause, "see whether `sidecar doctor` finds a cause", Exit.FAILED)

    def stop(self, timeout_seconds: float) -> None:
        """No connection is accepted after this; those that are open get ``timeout_seconds`` at most."""
        self._stopping.set()
        self._server.stop()
        self._thread.join(timeout_seconds)
        self._bound.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._bound.dup() as listening:  # uvicorn closes what it is given, but not after every fault.
                    asyncio.run(self._server.serve(sockets=[listening]))
            except BaseException as error:  # noqa: BLE001 - Task boundary. uvicorn may also call sys.exit().
                self._failure = error
            self._has_started = self._has_started or self._server.started
            if self._stopping.is_set() or not self._has_started:
                return
            log.error("the HTTP server ended and begins anew: %r", self._failure)
            self._stopping.wait(RESTART_SECONDS)
            self._server = _Uvicorn(self._config)


class _Uvicorn(uvicorn.Server):
    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Without uvicorn's ten ticks a second, 0.2 % of a core: the Date header, which they renew, is the guard's."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        if not await self.on_tick(0):
            await self._stopped.wait()

    def stop(self) -> None:
        """Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # The loop has ended already.
                self._loop.call_soon_threadsafe(self._stopped.set)


class _BoundedH11(H11Protocol):
    """uvicorn waits for ever for the end of a request's head, and for a reader to take its answer. This does not."""

    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_answer_timer()
        super().resume_writing()

    def _expect_progress(self, left_bytes: int) -> None:
        self._answer_timer = self.loop.call_later(ANSWER_STALLED_SECONDS, self._check_progress, left_bytes)

    def _check_progress(self, left_before_bytes: int) -> None:
        left_bytes = self.transport.get_write_buffer_size()
        if left_bytes < left_before_bytes:
            self._expect_progress(left_bytes)
        else:  # close() would wait for the reader as well.
            self.transport.abort()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _watch(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._unwatch()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(REQUEST_HEAD_SECONDS, self._expire)

    def _expire(self) -> None:
        self._head_timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _unwatch(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app, loop="asyncio", http=_BoundedH11, ws="none", lifespan="off", log_config=None, access_log=False,
        log_level="error",  # Its warnings are about what strangers send: a scan of ports would fill the log.
        server_header=False, date_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS_MAX, backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE_SECONDS), timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
    )  # fmt: skip


def bind(host: str, port: int, *, tries: int = 1) -> socket.socket:
    """A listening socket at ``port``, or at one of the next ``tries - 1``; port 0 is any free one.

    It listens at once: until one of them does, two sidecars that start together can both bind the same port.
    Raises OSError (address in use, no permission, unknown host) of the last attempt.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM,
                                                            flags=socket.AI_PASSIVE)[0]  # fmt: skip
    for attempt in range(tries):
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address[0], port + attempt, *address[2:]))
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            if attempt == tries - 1 or port + attempt >= 65535:
                raise
        else:
            return bound
    raise OSError("no port tried")
