"""Rows to Weights & Biases, through the wandb library, in a process of its own.

Given: rows that passed the privacy gate. Hands on: wandb history rows, one per global step, with our own axes.
Never: lets wandb read this machine (argv, code, git, console, host, hardware), lets it drop a row whose step went
back, or trusts it to have kept what it was given.

wandb acknowledges nothing. Each row is therefore logged under wandb's own ``_step`` = the row's number in the run,
which never changes: after a restart the far end's last ``_step`` (the server's when online, the local transaction
log's when offline) says what arrived, the runner delivers from there, and a repeat is recognised. People see
``train/global_step`` as their axis instead, which may repeat or go back.
"""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from sidecar.rows import Row, RunInfo
from sidecar.sinks import wandb_account, wandb_upstream
from sidecar.sinks.base import Report, SinkContext, SinkDied, Unavailable
from sidecar.sinks.wandb_log import last_step
from sidecar.sinks.wandb_rows import AXES, ELAPSED, STEP, TOKENS, as_payloads

LOG_FLUSH_SECONDS = 0.5
"""wandb's own 15 s would lose as much to a kill."""
UPLOAD_SECONDS = 5.0
"""Rows are visible within ten seconds; wandb's own 15 s are not."""
CONFIRM_SECONDS = 15.0
"""Longest time from handing a row to wandb until it must be in the local transaction log."""
VERIFY_SECONDS = 30.0
"""How often the server is asked what it has."""
ARRIVE_SECONDS = 300.0
"""How long the server may lack rows, with no progress at all, before the uploader is taken for dead."""
FINISH_SECONDS = 20


class WandbSink:
    isolated: ClassVar[bool] = True
    leaves_machine: ClassVar[bool] = True
    per_node: ClassVar[bool] = True
    spelled: ClassVar[bool] = True
    environment: ClassVar[tuple[str, ...]] = wandb_account.KEPT_VARIABLES

    def __init__(self, context: SinkContext) -> None:
        self._options = context.options
        self._base = context.options.get("dir") or os.environ.get("WANDB_DIR") or context.data_dir
        self._run: Any = None
        self._info: RunInfo | None = None
        self._report = Report()
        self._logged = -1
        """The highest ``_step`` handed to wandb in this process."""
        self._logged_at = 0.0
        self._confirmed = -1
        self._read_at = 0.0
        self._stop_asked = False
        self._mode = "offline"
        self._arrivals = Arrivals(
            float(context.options.get("verify_seconds", VERIFY_SECONDS)),
            float(context.options.get("arrive_seconds", ARRIVE_SECONDS)),
        )
        self._last_global_step = 0
        self._tokens: Any = None
        self._announced: set[str] = set()

    # --- the Sink protocol

    def open(self, run: RunInfo) -> Report:
        if self._run is not None:
            if self._info is not None and self._info.node != run.node:
                raise SinkDied("rank 0 is on this node after all; starting W&B anew, with the run as a whole")
            self._update(run)
        elif self._report.state != "disabled":
            self._report = self._start(run)
        self._info = run
        self._announce(run)
        return self._report

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        if self._run is None:
            return
        self._check()
        started = self._info.started_ns / 1e9 if self._info and self._info.started_ns else None
        for step, payload in as_payloads(rows, number):
            payload.setdefault(STEP, self._last_global_step)  # wandb repeats nothing by itself: each row has its axis.
            self._last_global_step = payload[STEP]
            self._tokens = payload.get(TOKENS, self._tokens)
            if self._tokens is not None:
                payload[TOKENS] = self._tokens
            if started is not None:
                payload[ELAPSED] = max(0.0, payload["_timestamp"] - started)
            if step > self._logged:  # A repeat within this process.
                self._log(payload, step)
        self._verify()
        if time.monotonic() - self._read_at > CONFIRM_SECONDS:  # A run that never pauses must not look unconfirmed.
            self._read_log()

    def flush(self) -> Report:
        if self._run is not None:
            self._check()
            self._confirm()
            self._verify()
        return self._report

    def report(self) -> Report:
        return self._report

    def close(self) -> None:
        """Returns when wandb-core has ended: ``finish`` alone does not wait for the last lines of its log."""
        if self._run is None:
            return
        try:
            failed = self._info is not None and self._info.end in ("failed", "lost")
            self._run.finish(exit_code=1 if failed else 0)
        finally:
            with contextlib.suppress(SystemExit):  # It exits with wandb-core's code when that is not 0.
                sys.modules["wandb"].teardown()

    # --- wandb

    def _start(self, info: RunInfo) -> Report:
        choice = wandb_account.choose_mode(self._options, os.environ)
        if choice.mode == "disabled":
            return Report(state="disabled", reason=choice.reason)
        wandb = _import_wandb()
        labels = wandb_account.labels(info, self._options, os.environ)
        on_disk = self._step_on_disk(labels.id) if choice.mode == "offline" else None
        os.makedirs(os.path.join(self._base, "wandb"), mode=0o700, exist_ok=True)
        try:
            self._run = wandb.init(
                id=labels.id, project=labels.project, entity=labels.entity, name=labels.name, group=labels.group,
                job_type=labels.job_type, tags=list(labels.tags), notes=labels.notes, dir=self._base, resume="allow",
                config=_config(info), settings=self._settings(wandb, choice.mode),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - wandb raises many kinds; the runner tries again in a new process.
            raise Unavailable(_explain(error)) from None
        _define_axes(self._run)
        self._mode = choice.mode
        line = wandb_account.start_line(labels)
        if choice.mode == "offline":
            acknowledged = None if on_disk is None else on_disk + 1
            self._logged = -1 if on_disk is None else on_disk
            return Report(state="offline", reason=f"{choice.reason} ({line})", acknowledged=acknowledged)
        self._logged = self._run.starting_step - 1  # What is there already need not be repeated.
        return Report(reason=line, url=self._run.url, acknowledged=self._run.starting_step)

    def _settings(self, wandb: Any, mode: str) -> Any:
        """Metrics only: nothing about the machine, the program or its user is read, stored or sent.

        Older versions lack some of the others; those of PRIVATE they all have."""
        asked = self._all_settings(mode)
        known = wandb.Settings.model_fields
        if missing := PRIVATE - known.keys():
            raise Unavailable(f"this wandb cannot be kept from {', '.join(sorted(missing))}; pip install -U wandb")
        return wandb.Settings(**{name: value for name, value in asked.items() if name in known})

    def _all_settings(self, mode: str) -> dict[str, Any]:
        return dict(
            mode=mode,
            root_dir=self._base,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            label_disable=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            host="",
            username="",
            email="",
            program="",
            program_relpath="",
            program_abspath="",
            x_executable="",
            docker="",
            silent=True,
            quiet=True,
            use_dot_wandb=False,
            init_timeout=float(self._options.get("init_seconds", 30.0)),
            finish_timeout=float(self._options.get("finish_seconds", FINISH_SECONDS)),
            finish_timeout_raises=True,
            stop_on_fatal_error=True,
            stop_fn=self._ask_to_stop,
            x_transaction_log_flush_interval=LOG_FLUSH_SECONDS,
            **({"x_file_stream_transmit_interval": UPLOAD_SECONDS} | self._options.get("internal", {})),
        )

    def _ask_to_stop(self) -> None:
        """wandb calls this, from a thread of its own, when it gave up uploading for good."""
        self._stop_asked = True

    def _check(self) -> None:
        if self._stop_asked:
            raise SinkDied("wandb stopped uploading after a fatal error (key, permission or server); starting it anew")

    def _log(self, payload: dict[str, Any], step: int) -> None:
        try:
            self._run.log(payload, step=step, commit=True)
        except (ValueError, TypeError):
            raise  # May be the row's fault.
        except Exception as error:  # noqa: BLE001 - its service died, in whatever words.
            raise SinkDied(f"wandb failed: {_explain(error)}") from None
        self._logged, self._logged_at = step, time.monotonic()

    def _confirm(self) -> None:
        """Compare with the local transaction log, which wandb writes in every mode: a dead wandb-core takes rows
        without a word."""
        if self._confirmed >= self._logged or time.monotonic() - self._logged_at < 2 * LOG_FLUSH_SECONDS:
            return
        self._read_log()
        if self._confirmed < self._logged and time.monotonic() - self._logged_at > CONFIRM_SECONDS:
            raise SinkDied("wandb does not write what it is given (its process is dead, or the disk is full)")

    def _read_log(self) -> None:
        on_disk = self._step_on_disk(self._run.id)
        self._read_at = time.monotonic()
        self._confirmed = max(self._confirmed, -1 if on_disk is None else on_disk)
        if self._mode == "offline":
            self._report = msgspec.structs.replace(self._report, acknowledged=self._confirmed + 1)

    def _verify(self) -> None:
        """Now and then ask the server what it has. Raises SinkDied when it does not get what wandb was given."""
        now = time.monotonic()
        key = wandb_upstream.key_of(os.environ, self._run.settings.base_url) if self._mode == "online" else None
        if key is None or not self._arrivals.due(self._logged, now):
            return
        try:
            has = wandb_upstream.last_step(
                self._run.settings.base_url, key, self._run.entity, self._run.project, self._run.id
            )
        except wandb_upstream.NoAnswer:
            return  # An outage: wandb retries, and says so itself when it gives up.
        self._report = msgspec.structs.replace(self._report, acknowledged=has + 1)
        if not self._arrivals.seen(has, now):
            raise SinkDied(f"W&B has rows only up to number {has} of {self._logged}; sending the rest anew")

    def _step_on_disk(self, run: str) -> int | None:
        """The last step in the local logs of this run, -1 when they hold none, None when there are no logs (a person
        cleaned up after a sync: then the cursor is believed)."""
        found = sorted(Path(self._base, "wandb").glob(f"*run-*-{run}/run-{run}.wandb"), reverse=True)
        for path in found:
            step = last_step(path, _history_step)
            if step is not None:
                return step
        return -1 if found else None

    def _update(self, info: RunInfo) -> None:
        known = _config(self._info) if self._info else {}
        fresh = {key: value for key, value in _config(info).items() if known.get(key) != value}
        if fresh:
            self._run.config.update(fresh, allow_val_change=True)


    def _announce(self, info: RunInfo) -> None:
        """Alerts, which W&B sends on by mail or chat; only there when their owner allowed them."""
        for name, severity, text, _ in info.alerts:
            if self._run is not None and name not in self._announced:
                self._announced.add(name)
                self._run.alert(name, text, level=LEVELS.get(severity, "INFO"), wait_duration=0)


class Arrivals:
    """Does the far end keep up? Pure: time is an argument."""

    def __init__(self, verify_seconds: float, arrive_seconds: float) -> None:
        self._verify_seconds, self._arrive_seconds = verify_seconds, arrive_seconds
        self._arrived = -1
        self._asked_at: float | None = None
        self._behind_since: float | None = None
        self._expected = -1

    def due(self, logged: int, now: float) -> bool:
        """Is it time to ask? ``logged``: the highest step handed over."""
        self._expected = logged
        if logged <= self._arrived or (self._asked_at is not None and now - self._asked_at < self._verify_seconds):
            return False
        first, self._asked_at = self._asked_at is None, now
        return not first  # The first rows have only just been handed over.

    def seen(self, step: int, now: float) -> bool:
        """The far end's last step. False: it has lacked something for too long without any progress."""
        if step >= self._expected or step > self._arrived:
            self._arrived, self._behind_since = step, None if step >= self._expected else now
            return True
        self._behind_since = self._behind_since if self._behind_since is not None else now
        return now - self._behind_since < self._arrive_seconds


def _import_wandb() -> Any:
    """The real library, in the last moment. Raises Unavailable for a stand-in or something broken."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # No crash reports with local variables to the vendor.
    os.environ["WANDB_SILENT"] = "true"
    try:
        import wandb
    except ImportError as error:
        raise Unavailable(f"wandb cannot be imported ({error}); pip install wandb") from None
    if not hasattr(wandb, "Settings") or hasattr(wandb, "__sidecar_stand_in__"):
        raise Unavailable(f"{getattr(wandb, '__file__', None) or sys.path[0]} is not the wandb library")
    return wandb


def _define_axes(run: Any) -> None:
    for axis in AXES:
        run.define_metric(axis)
    run.define_metric("*", step_metric=STEP)


def _config(info: RunInfo) -> dict[str, Any]:
    """The run's configuration, and facts about its model under the documents' ``model/`` keys."""
    facts = {f"model/{FACT_NAMES.get(key, key)}": value for key, value in info.model_facts.items()}
    own = {"stage": info.stage, "world_size": info.world_size, "total_steps": info.total_steps}
    if info.node is not None:
        own |= {"node/first_rank": info.node, "node/primary_run": wandb_account.run_id(info.run_id)}
    return {**facts, **{key: value for key, value in own.items() if value is not None}, **info.config}


FACT_NAMES = {"params": "total_params"}
LEVELS = {"critical": "ERROR", "warning": "WARN"}


def _history_step(record: bytes) -> int | None:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # Its names are made at run time, differently for each version of protobuf.
    parsed = messages.Record()
    try:
        parsed.ParseFromString(record)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError has moved between its versions.
        return None
    return parsed.history.step.num if parsed.WhichOneof("record_type") == "history" else None


PRIVATE = frozenset(
    {
        "console", "save_code", "disable_code", "disable_git", "disable_job_creation", "label_disable",
        "x_disable_meta", "x_disable_stats", "x_disable_machine_info", "host", "username", "email", "program",
        "program_relpath", "program_abspath", "x_executable",
    }
)  # fmt: skip
"""Settings without which wandb would read this machine."""

UNREACHABLE = ("timed out", "timeout", "connect", "no such host", "name resolution", "lookup")


def _explain(error: Exception) -> str:
    """One line, with the remedy where we know it. Never the key."""
    text = " ".join(str(error).split())
    key = os.environ.get("WANDB_API_KEY", "")
    text = text.replace(key, "***") if len(key) > 8 else text
    lowered = text.lower()
    if "api key" in lowered or "api_key" in lowered or "401" in text or "unauthorized" in lowered:
        return f"W&B refused the key: check WANDB_API_KEY or run `wandb login` ({text[:160]})"
    if "403" in text or "permission" in lowered or "forbidden" in lowered:
        return f"W&B refused access to the project: check the entity and your rights ({text[:160]})"
    if any(word in lowered for word in UNREACHABLE):
        return f"W&B cannot be reached, rows wait in the journal ({text[:160]})"
    return f"W&B: {type(error).__name__}: {text[:200]}"
