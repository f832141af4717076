"""A hub on loopback: the few requests by which huggingface_hub lists and fetches a data set, answered from memory."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

SHA = "0123456789abcdef0123456789abcdef01234567"
Repos = dict[str, dict[str, bytes]]


@contextmanager
def fake_hub(repos: Repos) -> Iterator["Hub"]:
    """``repos``: name of a data set -> path in it -> content."""
    server = Hub(repos)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repos: Repos) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        for repo, files in self.server.repos.items():
            if path.startswith(f"datasets/{repo}/resolve/"):
                name = path.removeprefix(f"datasets/{repo}/resolve/").partition("/")[2]
                if name in files:
                    if with_body:
                        self.server.fetched.append(name)
                    return self._send(files[name], with_body, {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'})
            if path in (f"api/datasets/{repo}", *(f"api/datasets/{repo}/revision/{r}" for r in ("main", SHA))):
                about = {"id": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
                return self._send(json.dumps(about).encode(), with_body, {})
            if path.startswith(f"api/datasets/{repo}/tree/"):
                rows = [
                    {"type": "file", "path": n, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for n, data in files.items()
                ]
                return self._send(json.dumps(rows).encode(), with_body, {})
        self._send(b"{}", with_body, {"X-Error-Code": "RepoNotFound"}, status=404)

    def _send(self, body: bytes, with_body: bool, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
