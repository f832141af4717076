"""W&B's server, asked by us: is it there, and what does it have of a run, which is the only proof that rows arrived?

Given: server address, key, run. Hands on: the last ``_step`` it stores.
Never: shows the key, follows a redirect with it, or takes an answer that is not JSON for one.

wandb's uploader takes a proxy's HTML page with status 200 for success and drops the rows, without a word.
"""

import base64
import json
import netrc
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

ANSWER_BYTES_MAX = 8 << 20
CONNECT_SECONDS = 3.0
"""A lost packet is sent again after one."""
QUERY = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyLineCount historyTail } }
}"""


class NoAnswer(OSError):
    """The server did not say; nothing follows from that."""


class Refused(OSError):
    """The server does not accept the key any more, or not for this project; the text has the status."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def reach(base_url: str) -> None:
    """Raises NoAnswer where nobody takes a connection, which wandb itself finds out in half a minute. Through a proxy
    that is not to be seen from here."""
    address = urlsplit(base_url)
    host = address.hostname or ""
    proxies = urllib.request.getproxies()
    if (address.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host):
        return
    port = address.port or {"http": 80}.get(address.scheme, 443)
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise NoAnswer(f"no connection to {host}: {error.strerror or error}") from None


def last_step(base_url: str, key: str, entity: str, project: str, run_id: str, timeout_seconds: float = 10.0) -> int:
    """The ``_step`` of the last history row that the server has; -1 when it has none. Raises NoAnswer, Refused."""
    variables = {"entity": entity, "project": project, "name": run_id}
    body = json.dumps({"operationName": "RunResumeStatus", "query": QUERY, "variables": variables}).encode()
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
    request = urllib.request.Request(f"{base_url.rstrip('/')}/graphql", body, headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_seconds) as answer:
            data = json.loads(answer.read(ANSWER_BYTES_MAX))
        bucket = data["data"]["model"]["bucket"]
        tail = json.loads(bucket["historyTail"] or "[]") if bucket else []
        return int(json.loads(tail[-1])["_step"]) if tail else -1
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Refused(f"it answers {error.code}") from None
        raise NoAnswer(f"{urlsplit(base_url).hostname} answers {error.code}") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise NoAnswer(f"no answer from {urlsplit(base_url).hostname}: {type(error).__name__}") from None


def key_of(environ: Mapping[str, str], base_url: str) -> str | None:
    """The key from the environment or netrc."""
    if key := environ.get("WANDB_API_KEY", "").strip():
        return key
    host = urlsplit(base_url).hostname or ""
    home = environ.get("HOME") or os.path.expanduser("~")
    for path in (environ.get("NETRC"), os.path.join(home, ".netrc"), os.path.join(home, "_netrc")):
        if path and os.path.exists(path):
            try:
                found = netrc.netrc(path).authenticators(host)
            except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
                continue
            if found and found[2]:
                return found[2]
    return None
