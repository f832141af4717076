"""What the tests of the HTTP side share: a client without a network, and a real server on a free loopback port."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest

from sidecar.web.app import create_app
from sidecar.web.security import Security
from sidecar.web.server import WebServer, bind
from tests.web.fake_views import FakeViews, make_snapshot


class Client:
    """A synchronous face on httpx' in-process transport."""

    def __init__(self, views: FakeViews, security: Security | None = None) -> None:
        self.views = views
        self.app = create_app(views, security)

    def request(self, method: str, path: str, **options: object) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9797") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: object) -> httpx.Response:
        return self.request("GET", path, **options)


class Server:
    """The application behind the real uvicorn, with the configuration the sidecar uses."""

    def __init__(self, views: FakeViews, security: Security | None = None, port: int = 0) -> None:
        self.views = views
        self.app = create_app(views, security)
        bound = bind("127.0.0.1", port)
        self.port: int = bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = WebServer(self.app, bound)
        self.http.start()

    def close(self) -> None:
        self.http.stop(10.0)


@pytest.fixture
def views() -> FakeViews:
    return FakeViews(make_snapshot())


@pytest.fixture
def client(views: FakeViews) -> Client:
    return Client(views)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(views: FakeViews, security: Security | None = None, port: int = 0) -> Server:
        started.append(Server(views, security, port))
        return started[-1]

    yield start
    for server in started:
        server.close()


def needed(program: str, package: str) -> str:
    """Path of a program from a Debian package. Missing: a failure in CI, a skip elsewhere."""
    path = shutil.which(program)
    if path is None:
        cause = f"{program} is not installed: apt-get install {package}"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(cause)
        pytest.skip(cause)
    return path


@pytest.fixture
def promtool() -> str:
    return needed("promtool", "prometheus")
