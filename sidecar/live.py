"""A sidecar that is running: where it is, whether it lives, what it says.

Given: a data directory or a URL. Hands on: a ``Live``, and JSON from its HTTP endpoints.
Never: starts or stops one, follows a proxy setting, or waits longer than it was told.
"""

import http.client
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from sidecar.config import Config
from sidecar.errors import Exit, UserError


class Unreachable(OSError):
    """No answer, or not one that makes sense."""


class Busy(Unreachable):
    """It answers that it has too much to do."""


class Slow(Unreachable):
    """Somebody is there, and did not answer in time."""


class Refused(Unreachable):
    """The answer is no: a wrong token, or nothing of that name."""


class Live(msgspec.Struct, frozen=True):
    """The content of endpoints.json."""

    http: str
    events: str
    pid: int


def read_endpoints(directory: Path) -> Live | None:
    """What the last sidecar of this directory wrote when it was ready; it may be long gone."""
    try:
        return msgspec.json.decode((directory / "endpoints.json").read_bytes(), type=Live)
    except (OSError, msgspec.DecodeError):
        return None


def find(config: Config, timeout_seconds: float = 2.0) -> Live | None:
    """The sidecar that serves this data directory now, one too busy to answer included; or None."""
    live = read_endpoints(config.data_directory)
    if live is None or not is_alive(live.pid):
        return None
    try:
        answer = status(live, config, timeout_seconds=timeout_seconds)
    except (Busy, Slow):
        return live
    except Unreachable:
        return None
    answering = (answer.get("sidecar") or {}).get("pid", live.pid)
    return live if answering == live.pid else None  # Its port and its pid may both belong to others by now.


def require(config: Config, timeout_seconds: float = 2.0) -> Live:
    """``find``, or a UserError with exit code 3."""
    live = find(config, timeout_seconds)
    if live is None:
        raise UserError(
            f"no sidecar is running on {config.dir}",
            "start one with `sidecar serve` or `sidecar run -- COMMAND`, or name its directory with --dir",
            Exit.NO_DATA,
        )
    return live


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fetch(
    base_url: str,
    path: str,
    *,
    query: dict[str, str] | None = None,
    token: str | None = None,
    timeout_seconds: float = 2.0,
) -> bytes:
    """The body of a GET. Raises Slow after the timeout, Busy for 503, Refused for 401, 403 and 404, and Unreachable
    when nobody is there and for every other 5xx."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    target = path + ("?" + urlencode(query) if query else "")
    try:
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        body = answer.read()
    except TimeoutError:
        raise Slow(f"{base_url}: no answer in {timeout_seconds:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{base_url}: {error}") from None
    finally:
        connection.close()
    if answer.status == 503:
        raise Busy(f"{base_url}{path} answered 503, ask again later: {body[:200].decode(errors='replace')}")
    if answer.status in (401, 403, 404):
        raise Refused(f"{base_url}{path} answered {answer.status}")
    if answer.status >= 500:
        raise Unreachable(f"{base_url}{path} answered {answer.status}")
    return body


def status(live: Live, config: Config, run: str | None = None, timeout_seconds: float = 2.0) -> dict[str, Any]:
    """``/status`` as a dictionary. Raises Unreachable."""
    query = {"run": run} if run else None
    body = fetch(live.http, "/status", query=query, token=config.token, timeout_seconds=timeout_seconds)
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        raise Unreachable(f"{live.http}/status did not answer JSON") from None
    return answer if isinstance(answer, dict) else {}
