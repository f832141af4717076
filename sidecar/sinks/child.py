"""The other end of isolate.py: the process in which one isolated sink lives.

Given: requests on an inherited socket. Hands on: one reply each.
Never: outlives its parent, takes the signals meant for it, or writes to the socket anything but replies.
"""

import os
import signal
import socket
import threading
import time

from sidecar.sinks import isolate
from sidecar.sinks.base import Report, Sink, SinkDied, Unavailable, reason_of
from sidecar.sinks.registry import resolve

ORPHAN_SECONDS = 10.0
"""How long an orphan may take to close its sink before it ends itself."""


def main(descriptor: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # The parent decides when we end; its death shows as end of file.
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    sock = socket.socket(fileno=descriptor)
    sink: Sink | None = None
    while not isinstance(request := _next(sock), isolate.Close | None):
        try:
            sink, done = _answer(request, sink)
            reply: isolate.Done | isolate.Failed = done
        except Exception as error:  # noqa: BLE001 - the sink's task boundary: the parent decides what to do.
            reply = _failure(error)
        if not _sent(sock, reply):
            request = None
            break
    _close(sink, sock if request is not None else None)


def _next(sock: socket.socket) -> isolate.Request | None:
    try:
        return isolate.decode_request(isolate.receive(sock))
    except (EOFError, OSError):
        return None


def _answer(request: isolate.Request, sink: Sink | None) -> tuple[Sink | None, isolate.Done]:
    if isinstance(request, isolate.Start):
        return resolve(request.target)(request.context), isolate.Done(Report())  # type: ignore[call-arg]
    if sink is None:
        raise Unavailable("not started")
    match request:
        case isolate.Open():
            report = sink.open(request.run)
        case isolate.Deliver():
            sink.deliver(request.rows, request.number)
            report = sink.report()
        case _:
            report = sink.flush()
    return sink, isolate.Done(report)


def _failure(error: Exception) -> isolate.Failed:
    if isinstance(error, SinkDied):
        return isolate.Failed("died", reason_of(error))
    outage = isinstance(error, Unavailable | OSError | TimeoutError)
    return isolate.Failed("unavailable" if outage else "rows", reason_of(error))


def _close(sink: Sink | None, sock: socket.socket | None) -> None:
    """Then leave without ceremony: a library's exit handlers have hung before."""
    try:
        reply: isolate.Done | isolate.Failed = isolate.Done(Report())
        if sink is not None:
            sink.close()
    except Exception as error:  # noqa: BLE001 - the task boundary again.
        reply = _failure(error)
    if sock is not None:
        _sent(sock, reply)
    os._exit(0)


def _sent(sock: socket.socket, reply: isolate.Done | isolate.Failed) -> bool:
    """False when the parent is gone."""
    try:
        isolate.send(sock, isolate.encode_reply(reply))
    except OSError:
        return False
    return True


def _end_with_parent(parent: int) -> None:
    """Even when the sink hangs: an orphan gets a moment to close, then ends."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)
