"""Ask the sidecar of this machine where a run left off.

Given: a run id, SIDECAR_DIR and SIDECAR_TOKEN. Hands on: its last step, configuration and summary; None for an
unknown run.
Never: waits longer than two seconds, or asks anyone but this machine.
"""

import contextlib
import json
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 2.0
NOT_FINITE: dict[str | None, float] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class CannotAsk(Exception):
    """There is no sidecar to ask: whether the run exists is unknown."""


class Past(NamedTuple):
    last_step: int | None
    config: dict[str, Any]
    summary: dict[str, Any]
    """The last value of every name that the script logged, as changed by what it wrote into the summary itself."""
    explicit: dict[str, Any]
    """What it wrote there itself, or asked for (minimum, maximum ...); None: the name is in no summary."""


def past(run_id: str) -> Past | None:
    """Raises CannotAsk when no sidecar answers."""
    url = _sidecar_url()
    if url is None:
        raise CannotAsk
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    question = urllib.request.Request(f"{url}/status?run={urllib.parse.quote(run_id, safe='')}")
    if token := os.environ.get("SIDECAR_TOKEN"):
        question.add_header("Authorization", f"Bearer {token}")
    try:
        with opener.open(question, timeout=TIMEOUT_SECONDS) as answer:
            status = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise CannotAsk from error
    except (OSError, ValueError) as error:
        raise CannotAsk from error
    if not isinstance(status, dict) or status.get("run_id") != run_id:
        return None
    latest = status.get("metrics") or {}
    steps = [item.get("step") for item in latest.values() if isinstance(item, dict)]
    known = [step for step in (status.get("step"), *steps) if isinstance(step, int)]
    explicit = dict(status.get("summary") or {})
    return Past(max(known, default=None), dict(status.get("config") or {}), _summary(status, explicit), explicit)


def _summary(status: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Without what only the sidecar computed."""
    computed = frozenset(status.get("computed") or ())
    logged = {
        name: NOT_FINITE.get(item.get("state"), item.get("value"))
        for name, item in (status.get("metrics") or {}).items() if isinstance(item, dict) and name not in computed
    }  # fmt: skip
    found = {**logged, **explicit}
    return {name: value for name, value in found.items() if value is not None}


def id_in(path: str) -> str | None:
    """The run id that ``resume="auto"`` left in a file."""
    try:
        return str(json.loads(Path(path).read_text())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(path: str, run_id: str) -> None:
    """Save the id for the next process. A process that ends well removes it again (forget)."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"run_id": run_id}))
    except OSError:
        return


def forget(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _sidecar_url() -> str | None:
    directory = os.environ.get("SIDECAR_DIR")
    if not directory:
        return None
    try:
        found = json.loads((Path(directory) / "endpoints.json").read_text())["http"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found).rstrip("/") if str(found).startswith("http") else None
