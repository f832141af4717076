"""Who may read over HTTP, and how much of the server one reader may hold.

Given: the bind address, the token, the allowed host names. Hands on: checks (pure) and an ASGI guard.
Never: knows a route beyond the probe paths and the page's own files, or compares secrets in variable time.

Any web page in any browser can send requests to a loopback port and, by DNS rebinding, read the answers; the Host
allow-list stops that. With a token the list is not needed (a rebinding page has no token), so a server that must have
one, because it is bound beyond loopback, answers to any Host unless names are given.
"""

import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from email.utils import formatdate
from typing import Any

import msgspec

from sidecar.errors import UserError

TOKEN_LENGTH_MIN = 16
TARGET_BYTES_MAX = 8 * 1024
HEADERS_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 0  # Nothing here reads a body.

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
PROBE_PATHS = frozenset({"/healthz", "/livez", "/readyz"})
PAGE_PREFIX = "/page/"

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy",
     b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
     b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


class BindRefused(UserError):
    """The server must not listen there. ``cause`` and ``remedy`` are one line each."""


class Security(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    """Where the server is bound."""
    token: str | None = None
    """Bearer token that every request but probes and the page's own files must carry; None: no token asked."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names answered to, beside loopback and ``host``; "*" is any, "*.example.org" any below example.org."""
    streams_max: int = 32
    """Open /api/v1/stream connections."""


def is_loopback(host: str) -> bool:
    """Only addresses that cannot be reached from another machine. The empty string means every interface."""
    name = host.strip().strip("[]").lower().rstrip(".")
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_bind(security: Security) -> None:
    """Raises BindRefused for an address beyond loopback without a token, or for a token too short to be secret."""
    if security.token is not None and len(security.token) < TOKEN_LENGTH_MIN:
        raise BindRefused(f"the HTTP token has {len(security.token)} characters",
                          f"use at least {TOKEN_LENGTH_MIN}, e.g. from: openssl rand -hex 16")
    if security.token is None and not is_loopback(security.host):
        raise BindRefused(f"binding HTTP to {security.host or 'every interface'} would let anyone on the network read "
                          "the run", "set a token (SIDECAR_TOKEN) or bind to 127.0.0.1 and use an SSH tunnel")


def host_of(header: str) -> str | None:
    """The name in a Host header: lower case, without port, brackets and the root dot. None if malformed."""
    found = _HOST.fullmatch(header.strip().lower())
    if not found or (found["port"] and int(found["port"]) > 65535):
        return None
    if found["v6"]:
        try:
            return str(ipaddress.IPv6Address(found["v6"]))
        except ValueError:
            return None
    return found["name"].removesuffix(".") or None


def host_allowed(header: str, security: Security) -> bool:
    """Whether a request with this Host header may be answered. Exact names only, unless a pattern was configured."""
    name = host_of(header)
    if name is None:
        return False
    patterns = {pattern.lower().rstrip(".").strip("[]") for pattern in security.allowed_hosts}
    if "*" in patterns or (security.token is not None and not patterns):
        return True
    if name in LOOPBACK_HOSTS or name in patterns:
        return True
    if name == security.host.lower().strip("[]") and name not in ("0.0.0.0", "::", ""):
        return True
    return any(pattern.startswith("*.") and name.endswith(pattern[1:]) for pattern in patterns)


def token_accepted(authorization: str | None, token: str) -> bool:
    """Compare in constant time; any scheme but Bearer is refused."""
    scheme, _, given = (authorization or "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and scheme.lower() == "bearer"


def refusal(scope: Scope, security: Security) -> tuple[int, str] | None:
    """Status and cause if this request must not reach the application, else None."""
    headers = _headers(scope)
    path: str = scope["path"]
    if scope["method"] not in ("GET", "HEAD"):
        return 405, "this server is read-only: GET and HEAD"
    if len(headers.get("host", [])) != 1 or not host_allowed(headers["host"][0], security):
        return 400, "this Host is not served here; add it to allowed_hosts if it is yours"
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_BYTES_MAX:
        return 414, f"the address is longer than {TARGET_BYTES_MAX} bytes"
    if "transfer-encoding" in headers or headers.get("content-length", ["0"]) not in (["0"], [""]):
        return 413, "requests have no body here"
    if security.token is not None and not _is_public(path):
        given = headers.get("authorization", [])
        if len(given) != 1 or not token_accepted(given[0], security.token):
            return 401, "a token is needed: Authorization: Bearer TOKEN"
    return None


def _is_public(path: str) -> bool:
    """Probes say only up or down; the page's files hold no data (it asks for the token itself)."""
    return path in PROBE_PATHS or path == "/" or path.startswith(PAGE_PREFIX)


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


class Guard:
    """ASGI middleware: refuse first, then answer HEAD as GET without a body, and put the headers on everything."""

    def __init__(self, app: App, security: Security) -> None:
        self._app, self._security = app, security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        guarded = _with_headers(send)
        refused = refusal(scope, self._security)
        if refused is not None:
            await _answer(guarded, *refused)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "sidecar.head": True}
            guarded = _without_body(guarded)
        await self._app(scope, receive, guarded)


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in HEADERS}
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            date = (b"date", formatdate(usegmt=True).encode())
            message = {**message, "headers": [*kept, *HEADERS, date]}
        await send(message)

    return guarded


def _without_body(send: Send) -> Send:
    async def bodiless(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return bodiless


async def _answer(send: Send, status: int, cause: str) -> None:
    body = msgspec.json.encode({"error": cause})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (413, 414):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
