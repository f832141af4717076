"""The event stream over real connections: first the whole, then changes; nobody is forgotten in it."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.web import stream as module
from sidecar.web.security import Security
from sidecar.web.stream import EventStream, Hub, patch
from tests.web.fake_views import FakeViews, make_snapshot

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4), max_leaves=12)
objects = st.dictionaries(st.text(max_size=3), json_values, max_size=5)


def merged(target: object, change: object) -> object:
    """RFC 7386, as a reader applies it; but a null is kept as a value."""
    if not isinstance(change, dict):
        return change
    base = dict(target) if isinstance(target, dict) else {}
    return base | {key: merged(base.get(key), value) for key, value in change.items()}


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@given(objects, objects)
def test_patching_the_old_object_gives_the_new_one(old: dict, new: dict) -> None:
    assert without_nulls(merged(old, patch(old, new))) == without_nulls(new)


def test_nothing_changed_is_an_empty_patch() -> None:
    assert patch({"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [1]}}) == {}


def events(response: httpx.Response) -> Iterator[tuple[str, dict]]:
    kind = ""
    for line in response.iter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            yield kind, json.loads(line[5:])


def join(stack: contextlib.ExitStack, url: str) -> Iterator[tuple[str, dict]]:
    """One more reader. Who drops the iterator leaves."""
    return events(stack.enter_context(httpx.stream("GET", f"{url}/api/v1/stream", timeout=20)))


def until(condition) -> None:
    """Wait for something that must come; the limit only keeps a failure from hanging."""
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_reader_gets_the_whole_then_only_what_changed(serve) -> None:
    views = FakeViews(make_snapshot(step=100))
    server = serve(views)
    with httpx.stream("GET", f"{server.url}/api/v1/stream", timeout=20) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        arriving = events(response)
        kind, whole = next(arriving)
        assert (kind, whole["step"], whole["project"]) == ("snapshot", 100, "nanochat")
        views.unpublished = make_snapshot(step=101)  # The stream asks for it to be published.
        kind, change = next(arriving)
        assert (kind, change["step"]) == ("delta", 101)
        assert "config" not in change
        assert "project" not in change


def test_a_stream_of_one_run_does_not_change_over_to_a_newer_one(serve) -> None:
    views = FakeViews(make_snapshot("old", step=1))
    server = serve(views)
    with httpx.stream("GET", f"{server.url}/api/v1/stream?run=old", timeout=20) as response:
        arriving = events(response)
        assert next(arriving)[1]["run_id"] == "old"
        views.publish(make_snapshot("new", step=9))
        views.publish(make_snapshot("old", step=2))
        assert next(arriving)[1].get("step") in (None, 2)
    assert httpx.get(f"{server.url}/status").json()["run_id"] == "new"


def test_readers_that_leave_are_forgotten(serve) -> None:
    server = serve(FakeViews(make_snapshot()))
    hub = server.app.state.hub
    with contextlib.ExitStack() as stack:
        readers = [join(stack, server.url) for _ in range(8)]
        assert [kind for kind, _ in map(next, readers)] == ["snapshot"] * 8
        assert hub.clients == 8
    until(lambda: hub.clients == 0)
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: hub.clients == 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.close()  # A reset, not a goodbye.
    until(lambda: hub.clients == 0)
    assert hub._frames == {}


async def in_thread(run_id: str | None, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def test_readers_beyond_the_limit_are_told_to_poll(serve) -> None:
    server = serve(FakeViews(make_snapshot()), Security(streams_max=2))
    with contextlib.ExitStack() as stack:
        readers = [join(stack, server.url) for _ in range(2)]
        assert [kind for kind, _ in map(next, readers)] == ["snapshot"] * 2
        answer = httpx.get(f"{server.url}/api/v1/stream", timeout=20)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert server.app.state.hub.refused_total == 1


def test_many_readers_cost_one_composition_per_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str | None] = []

    async def scenario() -> None:
        version = [1]
        hub = Hub(lambda run: made.append(run) or {"step": version[0]}, lambda: version[0], 100, in_thread)
        first = await asyncio.gather(*(hub.frame(None) for _ in range(50)))
        version[0] = 2
        again = await hub.frame(None)  # Too soon: at most two a second.
        assert len({frame.serial for frame in [*first, again]}) == 1
        await asyncio.sleep(0.05)
        assert (await hub.frame(None)).delta == b'event: delta\nid: 2\ndata: {"step":2}\n\n'

    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.02)
    asyncio.run(scenario())
    assert len(made) == 2


def test_a_run_that_is_being_read_stays_when_many_others_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(module, "RUNS_CACHED_MAX", 3)

    async def scenario() -> None:
        version = [0]
        hub = Hub(lambda run: {"step": version[0]}, lambda: version[0], 100, in_thread)
        for other in range(10):
            version[0] += 1
            assert (await hub.frame("read")).serial == version[0]
            await hub.frame(f"other {other}")
        assert len(hub._frames) == 3

    asyncio.run(scenario())


def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED_READER_SECONDS", 0.05)
    hub = Hub(lambda run: {}, lambda: 1, 4, in_thread)

    async def never(*_: object) -> dict:
        await asyncio.Event().wait()
        return {}

    async def scenario() -> None:
        await asyncio.wait_for(EventStream(hub, None)({"type": "http"}, never, never), 20)

    asyncio.run(scenario())
    assert hub.clients == 0
