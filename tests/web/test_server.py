"""The HTTP server as a whole: what strangers send it, who gets the port, and what ends it."""

import contextlib
import socket
import time
from email.utils import formatdate
from functools import partial

import httpx
import pytest

from sidecar.errors import Exit, UserError
from sidecar.web import security, server
from sidecar.web.server import bind
from tests.web.fake_views import FakeViews, make_snapshot


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
        return answer


def test_the_real_server_hides_its_name_and_survives_nonsense(serve) -> None:
    port = serve(FakeViews(make_snapshot())).port
    good = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b"\r\nserver:" not in ask(port, good).lower()
    for nonsense in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
                     b"GET /status HTTP/1.1\r\n\r\n",
                     b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\0" * 64):
        assert ask(port, nonsense)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431"), nonsense[:20]
    assert ask(port, good).startswith(b"HTTP/1.1 200")


def test_a_request_that_never_ends_is_closed(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_HEAD_SECONDS", 0.2)
    port = serve(FakeViews(make_snapshot())).port
    for opening in (b"", b"GET /status HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /sta"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(opening)
            if b"healthz" in opening:  # The first answer arrives; the second request trickles in for ever.
                assert connection.recv(65_536)
                time.sleep(0.05)
                connection.sendall(b"t")
            while connection.recv(65_536):
                pass


def test_an_answer_that_nobody_takes_is_dropped_and_a_slow_reader_is_not(
    serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_STALLED_SECONDS", 1.0)
    run = make_snapshot(config={"large": "x" * 20_000_000})  # More than the system takes for a reader.
    port = serve(FakeViews(run)).port

    def asked() -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection

    with asked() as stuck, asked() as slow:
        received = 0
        for _ in range(25):  # In all longer than any one pause may be.
            received += len(slow.recv(500_000))
            time.sleep(0.05)
        while part := slow.recv(1_000_000):
            received += len(part)
        assert received > 20_000_000
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while part := stuck.recv(1_000_000):
                taken += len(part)
        assert taken < 20_000_000


def test_strangers_cannot_fill_the_log(serve, caplog: pytest.LogCaptureFixture) -> None:
    port = serve(FakeViews(make_snapshot())).port
    ask(port, b"\x16\x03\x01\x02\x00")
    ask(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
    assert caplog.text == ""


def test_a_taken_port_gives_the_next_free_one() -> None:
    first = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    first.listen()
    second = bind("127.0.0.1", port, tries=20)
    assert second.getsockname()[1] > port
    with pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", port)
    first.close()
    second.close()


def test_two_servers_that_start_together_get_a_port_each() -> None:
    with bind("127.0.0.1", 0) as first:  # Nothing serves it yet.
        port = first.getsockname()[1]
        with bind("127.0.0.1", port, tries=20) as second:
            assert second.getsockname()[1] != port


def test_a_fault_of_the_server_itself_is_logged_and_it_begins_anew_at_the_same_port(
    serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "RESTART_SECONDS", 0.01)
    faults = [RuntimeError("a fault of uvicorn"), SystemExit(3)]
    tick = server._Uvicorn.on_tick

    async def tick_or_fail(self: server._Uvicorn, counter: int) -> bool:
        if faults:
            raise faults.pop()
        return await tick(self, counter)

    monkeypatch.setattr(server._Uvicorn, "on_tick", tick_or_fail)
    running = serve(FakeViews(make_snapshot()))
    while faults:
        time.sleep(0.01)
    assert httpx.get(f"{running.url}/healthz", timeout=10).status_code == 200
    assert caplog.text.count("begins anew") == 2
    running.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/healthz", timeout=10)


@pytest.mark.parametrize("error", [OSError(98, "Address already in use"), SystemExit(3)], ids=repr)
def test_a_server_that_ends_while_it_starts_is_refused_in_words(
    serve, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def end(self: server._Uvicorn, sockets: object = None) -> None:
        raise error

    monkeypatch.setattr(server._Uvicorn, "startup", end)
    with pytest.raises(UserError, match="while it was starting: ") as refused:
        serve(FakeViews(make_snapshot()))
    assert repr(error) in refused.value.cause
    assert refused.value.exit_code == Exit.FAILED


def test_each_answer_says_when_it_was_given(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve(FakeViews(make_snapshot()))
    monkeypatch.setattr(security, "formatdate", partial(formatdate, 1_800_000_000))
    for path in ("/healthz", "/nope", "/status"):
        answer = httpx.get(f"{running.url}{path}", timeout=10)
        assert answer.headers.get_list("date") == ["Fri, 15 Jan 2027 08:00:00 GMT"]


def test_a_server_is_stopped_while_nobody_asks_for_anything(serve) -> None:
    running = serve(FakeViews(make_snapshot()))
    running.http.stop(30.0)
    assert not running.http._thread.is_alive()
