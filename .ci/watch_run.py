"""While `make run` is going on: what `curl /status` and `curl /metrics` answer must be complete and must move on.

Given: the data directory of the run. Uses nothing but the standard library: it runs before anything is installed.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

SET_UP_SECONDS_MAX = 420
RUN_SECONDS_MAX = 300


def main(directory: Path) -> int:
    url = json.loads(wait_for(directory / "endpoints.json", SET_UP_SECONDS_MAX))["http"]
    deadline = time.monotonic() + RUN_SECONDS_MAX
    missing, first_step = ["/status"], None
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            status = json.loads(get(url + "/status"))
            missing = incomplete(status)
            if not missing and b"training_tokens_total" not in get(url + "/metrics"):
                missing = ["training_tokens_total in /metrics"]
        except OSError as error:
            missing = [f"/status: {error}"]
        if not missing:
            first_step = status["step"] if first_step is None else first_step
            missing = [] if status["step"] > first_step else [f"a step after {first_step}"]
    if missing:
        print(f"during the run these never came: {', '.join(missing)}", file=sys.stderr)
        return 1
    print(f"during the run /status and /metrics were whole, and went on from step {first_step}", file=sys.stderr)
    return 0


def incomplete(status: dict) -> list[str]:
    """What /status must have during a run and does not."""
    needed = ["run_id", "stage", "step", "loss", "tokens_per_second"]
    found = [name for name in needed if status.get(name) is None]
    mfu = status.get("mfu") or {}
    if mfu.get("reason") is None and None in (mfu.get("value"), mfu.get("convention"), mfu.get("source")):
        found.append("mfu")
    eta = status.get("eta") or {}
    if eta.get("seconds") is None and eta.get("reason") is None:
        found.append("eta")
    if not status.get("gpus") and not (status.get("gpu") or {}).get("reason"):
        found.append("gpus or reason")
    if "wandb" not in (status.get("sinks") or {}):
        found.append("sinks")
    return found


def wait_for(path: Path, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists():
            return path.read_text()
        time.sleep(0.2)
    raise SystemExit(f"{path} did not appear within {seconds} s")


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        return answer.read()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
