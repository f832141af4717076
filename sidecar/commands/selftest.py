"""``sidecar selftest``: a short run through every part, each checked; nothing of the user's is read or written."""

import argparse
import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sidecar import live
from sidecar.errors import UserError

if TYPE_CHECKING:
    from sidecar.trial import Trial

DESCRIPTION = "Run a made-up training through every part in a temporary folder, and check each. Exit code 0 or 1."
EXAMPLES = ["sidecar selftest", "sidecar selftest --json"]

RUN = "selftest"
STEPS = 150
KILL_AT_STEP = 30
WAIT_SECONDS = 15.0
POLL_SECONDS = 0.1
SINKS = {"wandb": "wandb", "tensorboard": "tensorboard"}
"""Sinks that need no account -> the package each needs."""

SCRIPT = f"""
import time
import sidecar
run = sidecar.init(project="selftest", name="selftest", stage="pretrain", run_id="{RUN}", total_steps={STEPS})
for step in range(1, {STEPS} + 1):
    time.sleep(0.01)
    run.step(step, loss=4.0 / step, learning_rate=1e-3, tokens=64, samples=2)
run.finish(timeout_seconds={WAIT_SECONDS})
"""


class Check(NamedTuple):
    name: str
    ok: bool
    text: str


class Failed(Exception):
    """What a check found wrong, in a sentence."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as a list of {name, ok, text}")


def run(options: argparse.Namespace) -> int:
    from sidecar import trial

    checks: list[Check] = []
    with trial.folder(tuple(name for name, package in SINKS.items() if importlib.util.find_spec(package))) as made:
        for name, check in stages(made):
            checks.append(attempt(name, check))
            if not options.json:
                print(f"{'ok' if checks[-1].ok else 'FAILED':<8} {name:<12} {checks[-1].text}", flush=True)
            if name in ("service", "client") and not checks[-1].ok:
                break  # Everything else would fail for the same reason.
    good = all(check.ok for check in checks)
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    elif not good:
        print("`sidecar doctor` says what this machine lacks")
    return 0 if good else 1


def attempt(name: str, check: "Callable[[], str]") -> Check:
    try:
        return Check(name, True, check())
    except (Failed, UserError) as error:
        return Check(name, False, str(error).replace("\n", "; "))
    except Exception as error:  # noqa: BLE001  # A part that breaks is a result of this test, not the end of it.
        return Check(name, False, f"{type(error).__name__}: {error}")


def stages(made: "Trial") -> "Iterator[tuple[str, Callable[[], str]]]":
    """The checks in order; each needs those before it."""
    yield "service", lambda: _service(made)
    training = _Training(made)
    yield "client", training.start
    yield "recovery", training.kill_sidecar
    yield "training", training.finish
    yield "/status", lambda: _status(made)
    yield "/metrics", lambda: _metrics(made)
    for name in made.config.sinks:
        yield name, lambda name=name: _sink(made, name)  # type: ignore[misc]
    yield "shutdown", lambda: _shutdown(made)
    if "wandb" in made.config.sinks:
        yield "privacy", lambda: _privacy(made)
    yield "journal", lambda: _journal(made)
    yield "export", lambda: _export(made)


def _service(made: "Trial") -> str:
    began = time.monotonic()
    found = made.start()
    return f"ready in {time.monotonic() - began:.1f} s at {found.http}"


class _Training:
    """The training process, and the sidecar killed under it."""

    def __init__(self, made: "Trial") -> None:
        self._made = made

    def start(self) -> str:
        self._process = self._made.client(SCRIPT)
        _until(lambda: (self._made.status(RUN).get("step") or 0) >= 1, "no step arrived", self._explain)
        return "a training process sends steps"

    def kill_sidecar(self) -> str:
        _until(lambda: (self._made.status(RUN).get("step") or 0) >= KILL_AT_STEP, "steps stopped", self._explain)
        self._made.kill()
        began = time.monotonic()
        self._made.start()
        _until(lambda: self._made.status(RUN).get("step") is not None, "the run did not come back", self._explain)
        return f"kill -9 of the sidecar; the run was back after {time.monotonic() - began:.1f} s"

    def finish(self) -> str:
        out, _ = self._process.communicate(timeout=2 * WAIT_SECONDS)
        if self._process.returncode or out.strip():
            raise Failed(f"the training ended with {self._process.returncode}: {out.strip()[-300:]}")
        return "the training did not notice, and ended with 0"

    def _explain(self) -> str:
        return f"; the training process ended with {self._process.poll()}" if self._process.poll() is not None else ""


def _status(made: "Trial") -> str:
    _until(lambda: made.status(RUN).get("state") == "finished", "the run was never seen to finish")
    status = made.status(RUN)
    _same("step", status["step"], STEPS)
    _same("tokens", status["tokens"], 64 * STEPS)
    _same("lost events", status.get("lost_events") or 0, 0)
    return f"step {status['step']}, loss {status['loss']:.4f}, {status['tokens']} tokens, nothing lost"


def _metrics(made: "Trial") -> str:
    from prometheus_client.parser import text_string_to_metric_families

    text = live.fetch(_http(made), "/metrics").decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    steps = families.get("training_steps")
    if steps is None or not any(sample.value == STEPS for sample in steps.samples):
        raise Failed(f"training_steps_total is not {STEPS}")
    return f"{len(families)} families parsed, training_steps_total {STEPS}"


def _sink(made: "Trial", name: str) -> str:
    def health() -> dict[str, object]:
        return dict((made.status(RUN).get("sinks") or {}).get(name) or {})

    def done() -> bool:
        now = health()
        return now.get("state") not in (None, "starting") and now.get("lag_events") == 0

    _until(done, "not everything was delivered", lambda: _why(health()))
    found = health()
    if found.get("failures"):
        raise Failed(f"{found['failures']} failures{_why(found)}")
    return f"{found.get('delivered_rows')} rows delivered, {found.get('state')}"


def _why(health: dict[str, object]) -> str:
    return f": {health['state']} ({health.get('reason') or 'no reason given'})" if health else ": it never started"


def _shutdown(made: "Trial") -> str:
    _same("exit code", made.stop(), 0)
    if made.config.endpoints_file.exists():
        raise Failed("endpoints.json was left behind")
    return "SIGTERM, exit code 0"


def _privacy(made: "Trial") -> str:
    """What real wandb wrote is read back."""
    from sidecar.sinks.audit import audit
    from sidecar.sinks.factory import identity_of_machine

    report = audit(made.config.data_directory, RUN, identity_of_machine(), Path(made.environ["WANDB_DIR"]))
    if not report.clean:
        raise Failed("; ".join(map(str, report.findings)))
    if report.rows < STEPS:
        raise Failed(f"only {report.rows} rows in the W&B file, {STEPS} were sent")
    return f"the W&B file holds {report.rows} rows, numbers only"


def _journal(made: "Trial") -> str:
    from sidecar.export import open_run

    with open_run(made.config, RUN) as opened:
        steps = [row.step for row in opened.rows(derived=False) if row.kind == "step"]
    if steps != list(range(1, STEPS + 1)):
        raise Failed(f"{len(steps)} steps, {len(set(steps))} of them different; {STEPS} were sent")
    return f"{STEPS} steps, each once, in order"


def _export(made: "Trial") -> str:
    from sidecar.export import open_run, write_jsonl

    out = io.BytesIO()
    with open_run(made.config, RUN) as opened:
        write_jsonl(opened, out, derived=True)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    tokens = sum(row["metrics"].get("train/num_tokens", 0) for row in rows if row["kind"] == "step")
    _same("tokens", tokens, 64 * STEPS)
    return f"{len(rows)} rows of JSON, {tokens} tokens"


def _http(made: "Trial") -> str:
    found = live.read_endpoints(made.config.data_directory)
    if found is None:
        raise Failed("no sidecar is running")
    return found.http


def _same(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Failed(f"{what}: {found}, expected {wanted}")


def _until(condition: "Callable[[], bool]", otherwise: str, more: "Callable[[], str]" = lambda: "") -> None:
    """Raises Failed when ``condition`` does not come true in time; slow machines get three times as long."""
    deadline = time.monotonic() + WAIT_SECONDS * (3 if os.getloadavg()[0] > (os.cpu_count() or 1) else 1)
    while not condition():
        if time.monotonic() >= deadline:
            raise Failed(otherwise + more())
        time.sleep(POLL_SECONDS)
