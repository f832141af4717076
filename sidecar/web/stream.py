"""``/api/v1/stream``: the status object as it changes, by server-sent events.

Given: a function that makes the current status object. Hands on: an ASGI response per reader.
Never: queues for a slow reader (it skips to the newest state), computes without a reader, or keeps a disconnected one.

Events: ``snapshot`` is the whole object; ``delta`` is a JSON merge patch (RFC 7386) to the one before, at most
two a second; comments keep the connection alive. Lists are replaced whole. Ages of single metrics are left out:
they change all the time and follow from their step.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from sidecar.web.security import Message, Receive, Scope, Send
from sidecar.web.workers import Busy

PERIOD_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0
STALLED_READER_SECONDS = 30.0
RETRY_MILLISECONDS = 2_000
RUNS_CACHED_MAX = 32
HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no"))

StatusOf = Callable[[str | None], dict[str, Any]]
RunFor = Callable[..., Awaitable[Any]]
"""Given a run id, a function and its arguments: has news published, then calls it in a thread. May raise Busy."""


class Frame(NamedTuple):
    serial: int
    made_at: float
    """When it was asked for last."""
    version: int
    whole: dict[str, Any]
    snapshot: bytes
    delta: bytes
    """Patch from the frame with the serial before this one."""


class Hub:
    """Makes each frame once for all readers, and only when there are readers. Lives on one event loop."""

    def __init__(self, status_of: StatusOf, version_of: Callable[[], int], clients_max: int, run_for: RunFor) -> None:
        self._status_of, self._version_of, self._run_for = status_of, version_of, run_for
        self._frames: dict[str | None, Frame] = {}
        self._making: weakref.WeakValueDictionary[str | None, asyncio.Lock] = weakref.WeakValueDictionary()
        self.clients_max = clients_max
        self.clients = 0
        self.refused_total = 0

    async def frame(self, run_id: str | None) -> Frame:
        """The newest state of a run, asked for at most every PERIOD_SECONDS. May raise Busy, if there is none yet."""
        now = asyncio.get_running_loop().time()
        making = self._making.setdefault(run_id, asyncio.Lock())  # One for each run: none waits for another.
        async with making:
            known = self._frames.get(run_id)
            if known is not None and now - known.made_at < PERIOD_SECONDS * 0.9:
                return known
            try:
                made = await self._run_for(run_id, self._make, run_id, known, now)
            except Busy:
                if known is None:
                    raise
                return known
            self._frames.pop(run_id, None)
            if len(self._frames) >= RUNS_CACHED_MAX:  # The one renewed longest ago: its readers have left.
                self._frames.pop(next(iter(self._frames)))
            self._frames[run_id] = made
            return made

    def _make(self, run_id: str | None, known: Frame | None, now: float) -> Frame:
        version = self._version_of()
        if known is not None and known.version == version:
            return known._replace(made_at=now)
        whole = self._status_of(run_id)
        for metric in whole.get("metrics", {}).values():
            metric.pop("age_seconds", None)
        serial = known.serial + 1 if known else 1
        delta = _event("delta", serial, patch(known.whole, whole)) if known else b""
        return Frame(serial, now, version, whole, _event("snapshot", serial, whole), delta)

    def left(self) -> None:
        self.clients -= 1
        if self.clients == 0:
            self._frames.clear()


class EventStream:
    """One reader's response: an ASGI application."""

    def __init__(self, hub: Hub, run_id: str | None) -> None:
        self._hub, self._run_id = hub, run_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hub.clients >= self._hub.clients_max:
            self._hub.refused_total += 1
            await _busy(send)
            return
        if scope.get("sidecar.head"):
            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
            await send({"type": "http.response.body", "body": b""})
            return
        self._hub.clients += 1
        gone = asyncio.create_task(_until_gone(receive))
        writing = asyncio.create_task(self._write(send))
        try:
            await asyncio.wait((gone, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, writing):
                task.cancel()
            await asyncio.gather(gone, writing, return_exceptions=True)
            self._hub.left()

    async def _write(self, send: Send) -> None:
        await _sent(send, {"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        await _sent(send, _body(b"retry: %d\n\n" % RETRY_MILLISECONDS))
        serial, quiet_seconds = 0, 0.0
        while True:
            frame = await self._hub.frame(self._run_id)
            if frame.serial != serial:
                await _sent(send, _body(frame.delta if frame.serial == serial + 1 and serial else frame.snapshot))
                serial, quiet_seconds = frame.serial, 0.0
            elif quiet_seconds >= HEARTBEAT_SECONDS:
                await _sent(send, _body(b": still here\n\n"))
                quiet_seconds = 0.0
            await asyncio.sleep(PERIOD_SECONDS)
            quiet_seconds += PERIOD_SECONDS


def patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """JSON merge patch from old to new. A key that became null and a key that was removed are both null (RFC 7386
    cannot tell them apart); readers treat the two alike."""
    changes: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key, msgspec.UNSET)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = patch(before, value)
            if inner:
                changes[key] = inner
        elif before != value or before is msgspec.UNSET:
            changes[key] = value
    return changes


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _sent(send: Send, message: Message) -> None:
    """A reader that accepts nothing for STALLED_READER_SECONDS is taken for disconnected."""
    await asyncio.wait_for(send(message), STALLED_READER_SECONDS)


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _event(name: str, serial: int, data: dict[str, Any]) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), serial, msgspec.json.encode(data))


async def _busy(send: Send) -> None:
    body = msgspec.json.encode({"error": "too many open streams; poll /status instead"})
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
