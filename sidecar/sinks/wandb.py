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
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from sidecar.rows import Row, RunInfo
from sidecar.sinks import wandb_account, wandb_artifacts, wandb_log, wandb_settings, wandb_upstream
from sidecar.sinks.base import FILE, Report, Sink, SinkContext, SinkDied, Unavailable
from sidecar.sinks.wandb_progress import Arrivals
from sidecar.sinks.wandb_rows import AXES, ELAPSED, REFUSED_MAX, STEP, TOKENS, as_payloads, is_axis_value, is_refused

READ_SECONDS = 5.0
"""How often the local transaction log is read while rows come without a pause."""
CONFIRM_SECONDS = 15.0
"""How long it may lack rows, with no progress at all, before wandb's writer is taken for dead."""
VERIFY_SECONDS = 30.0
"""How often the server is asked what it has."""
ARRIVE_SECONDS = 300.0
"""How long the server may lack rows, with no progress at all, before the uploader is taken for dead."""
FREE_BYTES_MIN = 1 << 20
"""With less on its disk, W&B loses what it is given."""


class WandbSink(Sink):
    isolated: ClassVar[bool] = True
    per_node: ClassVar[bool] = True
    sends_files: ClassVar[bool] = True
    one_rank: ClassVar[bool] = True
    one_row_per_step: ClassVar[bool] = True
    environment: ClassVar[tuple[str, ...]] = wandb_account.KEPT_VARIABLES

    def __init__(self, context: SinkContext) -> None:
        self._options = options = context.options
        self._folder = Path(context.data_dir)
        self._base = options.get("dir") or os.environ.get("WANDB_DIR") or context.data_dir
        self._run: Any = None
        self._info: RunInfo | None = None
        self._report = Report()
        self._mode, self._base_url = "offline", ""
        self._logged = -1
        """The highest ``_step`` handed to wandb in this process."""
        self._logged_at = 0.0
        self._begun = -1
        """The ``_step`` from which this process goes on: what is up to it is known to have arrived."""
        self._first: int | None = None
        """The first row number given to this process."""
        self._found: int | None = None
        """The last step that older logs of this run held at the start; None: there were none."""
        self._log_file: wandb_log.Tail | None = None
        self._stop_asked = self._removed = False
        """Set by wandb, from a thread of its own, when it gave up uploading for good; and when its folder is gone."""
        confirm, verify = options.get("confirm_seconds", CONFIRM_SECONDS), options.get("verify_seconds", VERIFY_SECONDS)
        self._written = Arrivals(min(READ_SECONDS, float(confirm) / 3), float(confirm))
        self._arrived = Arrivals(float(verify), float(options.get("arrive_seconds", ARRIVE_SECONDS)))
        self._last_global_step = 0
        self._tokens: Any = None
        self._announced: set[str] = set()
        self._refused: set[str] = set()
        self._files: wandb_artifacts.Outbox | None = None
        self._withheld_files = False
        self._summarised: dict[str, Any] = {}
        """What W&B's summary was told beside the rows."""

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
        return self.report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        if self._run is None or self._is_removed():
            return
        self._check()
        self._first = number if self._first is None else self._first
        started = self._info.started_ns / 1e9 if self._info and self._info.started_ns else None
        self._take_files(rows, number)
        for step, payload in as_payloads(rows, number, self._refused):
            self._set_axes(payload)
            if started is not None:
                payload[ELAPSED] = max(0.0, payload["_timestamp"] - started)
            for name in self._summarised.keys() & payload.keys():
                del self._summarised[name]
            if step > self._logged:  # A repeat within this process.
                self._log(payload, step)
        self._verify()
        if self._written.due(self._logged, time.monotonic()):
            self._confirm()

    def flush(self) -> Report:
        if self._run is not None and not self._is_removed():
            self._check()
            self._summarise()
            now = time.monotonic()
            resting = now - self._logged_at > 2 * wandb_settings.LOG_FLUSH_SECONDS
            if self._written.due(self._logged, now) or (resting and self._confirmed < self._logged):
                self._confirm()
            self._verify()
        return self.report()

    def report(self) -> Report:
        parts = [self._report.reason, self._about_names(), self._about_files()]
        return msgspec.structs.replace(self._report, reason="; ".join(part for part in parts if part) or None)

    def close(self) -> None:
        """Returns when wandb-core has ended: ``finish`` alone does not wait for the last lines of its log."""
        if self._run is None:
            return
        if self._mode == "online":
            self._reach(self._base_url)  # What it still has to send, it could not.
        try:
            self._summarise()
            if self._files is not None:
                self._files.close()
            self._run.finish(exit_code=_exit_code(self._info))  # Online it raises when not all was sent.
            if self._mode == "online" and (self._found is None or self._logged >= self._found):
                self._note_sent(wandb_log.logs(self._base, self._run.id))
        finally:
            with contextlib.suppress(SystemExit):  # It exits with wandb-core's code when that is not 0.
                sys.modules["wandb"].teardown()

    # --- wandb

    def _start(self, info: RunInfo) -> Report:
        choice = wandb_account.choose_mode(self._options, os.environ)
        if choice.mode == "disabled":
            return Report(state="disabled", reason=choice.reason)
        wandb = wandb_settings.load()
        labels = wandb_account.labels(info, self._options, os.environ)
        os.makedirs(os.path.join(self._base, "wandb"), mode=0o700, exist_ok=True)
        if self._is_full():
            raise Unavailable(wandb_settings.no_space(self._base))
        self._found = wandb_log.last_step_of(self._base, labels.id)
        if choice.mode == "online" and (address := wandb_settings.server(wandb)):
            self._reach(address)

        wandb_log.wait_for_free_folder(self._base, labels.id)

        def stop() -> None:  # No method: wandb copies its settings, and would copy us with it.
            self._stop_asked = True

        try:
            self._run = wandb.init(
                id=labels.id, project=labels.project, entity=labels.entity, name=labels.name, group=labels.group,
                job_type=labels.job_type, tags=list(labels.tags), notes=labels.notes, dir=self._base, resume="allow",
                config=_config(info),
                settings=wandb_settings.settings(wandb, self._options, choice.mode, self._base, stop),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - wandb raises many kinds; the runner tries again in a new process.
            raise Unavailable(wandb_settings.explain(error, self._base)) from None
        _define_axes(self._run)
        self._mode = choice.mode
        settings = self._run.settings  # Copied whole at each access.
        self._log_file, self._base_url = wandb_log.Tail(Path(settings.sync_file)), settings.base_url
        online = choice.mode == "online"
        self._take_axes(dict(self._run.summary) if online else wandb_log.last_row_of(self._base, labels.id))
        self._files = wandb_artifacts.Outbox(
            self._folder, labels.id, lambda file, stop: wandb_artifacts.send(self._run, file, stop, online=online)
        )
        line = wandb_account.start_line(labels)
        if choice.mode == "offline":
            acknowledged = None if self._found is None else self._found + 1
            self._begun = self._logged = -1 if self._found is None else self._found
            return Report(state="offline", reason=f"{choice.reason} ({line})", acknowledged=acknowledged)
        self._begun = self._logged = self._run.starting_step - 1  # What is there already need not be repeated.
        return Report(reason=line, url=self._run.url, acknowledged=self._run.starting_step)

    def _reach(self, base_url: str) -> None:
        try:
            wandb_upstream.reach(base_url)
        except wandb_upstream.NoAnswer as error:
            raise Unavailable(wandb_settings.explain(error)) from None

    def _set_axes(self, payload: dict[str, Any]) -> None:
        """wandb repeats nothing by itself: a row without a step or a token count has those of the row before."""
        if is_axis_value(payload.get(STEP)):
            self._last_global_step = payload[STEP]
        payload[STEP] = self._last_global_step
        if is_axis_value(tokens := payload.pop(TOKENS, None)):
            self._tokens = tokens
        if self._tokens is not None:
            payload[TOKENS] = self._tokens

    def _check(self) -> None:
        if self._removed:
            raise SinkDied(f"W&B's folder in {self._base} was removed; it is written anew")
        if self._stop_asked:
            raise SinkDied("wandb stopped uploading after a fatal error (key, permission or server); starting it anew")

    def _take_axes(self, last: dict[str, Any]) -> None:
        """Where the run was, as the far end has it: rows without a step go on from there, not from 0."""
        step, tokens = last.get(STEP), last.get(TOKENS)
        self._last_global_step = step if isinstance(step, int) else self._last_global_step
        self._tokens = tokens if isinstance(tokens, int | float) else self._tokens

    def _is_full(self) -> bool:
        return shutil.disk_usage(self._base).free < FREE_BYTES_MIN

    def _is_removed(self) -> bool:
        """True once, when somebody removed the log that wandb goes on writing to: what was in it is to come again."""
        if self._removed or self._log_file is None or not self._log_file.is_gone:
            return False
        self._removed = True
        if self._mode == "online":
            return False  # The server knows what it has.
        left = wandb_log.last_step_of(self._base, self._run.id)
        begun = (self._first or 0) if self._found is None else 0
        self._report = msgspec.structs.replace(self._report, acknowledged=begun if left is None else left + 1)
        return True

    def _log(self, payload: dict[str, Any], step: int) -> None:
        try:
            self._run.log(payload, step=step, commit=True)
        except (ValueError, TypeError):
            raise  # May be the row's fault.
        except Exception as error:  # noqa: BLE001 - its service died, in whatever words.
            raise SinkDied(f"wandb failed: {wandb_settings.explain(error, self._base)}") from None
        self._logged, self._logged_at = step, time.monotonic()

    def _about_names(self) -> str | None:
        names = ", ".join(repr(name[:40]) for name in sorted(self._refused)[:REFUSED_MAX])
        return f"W&B refuses the names {names}: rename them in the training script" if names else None

    def _take_files(self, rows: Sequence[Row], number: int) -> None:
        """Of checkpoints that this process logs for the first time."""
        for index, row in enumerate(rows, number):
            if FILE not in row.metrics or index <= self._logged:
                continue
            path = row.metrics[FILE]
            if not isinstance(path, str):
                self._withheld_files = True
            elif self._files is not None:
                self._files.add(wandb_artifacts.File(index, path, os.path.basename(path.rstrip("/")), row.step))

    def _about_files(self) -> str | None:
        if self._withheld_files:
            return "checkpoint files stay here (--allow artifacts sends them)"
        if self._files is None or not (self._files.note or self._files.waiting):
            return None
        return self._files.note or f"{self._files.waiting} checkpoint files are on their way"

    @property
    def _confirmed(self) -> int:
        """The last ``_step`` in the local transaction log, which wandb writes in every mode."""
        return max(self._begun, self._log_file.step if self._log_file is not None else -1)

    def _confirm(self) -> None:
        """A dead wandb-core takes rows without a word; its log says so. Raises SinkDied."""
        assert self._log_file is not None
        self._log_file.read()
        if self._mode == "offline":
            self._report = msgspec.structs.replace(self._report, acknowledged=self._confirmed + 1)
        written = self._written.seen(self._confirmed, time.monotonic())
        if self._confirmed < self._logged and self._is_full():  # wandb writes nothing more, even when there is room.
            raise SinkDied(wandb_settings.no_space(self._base))
        if not written:
            raise SinkDied("wandb does not write what it is given (its process is dead); starting it anew")

    def _verify(self) -> None:
        """Now and then ask the server what it has. Raises SinkDied when it does not get what wandb was given."""
        now = time.monotonic()
        key = wandb_upstream.key_of(os.environ, self._base_url) if self._mode == "online" else None
        if key is None or not self._arrived.due(self._logged, now):
            return
        try:
            has = wandb_upstream.last_step(
                self._base_url, key, self._run.entity, self._run.project, self._run.id
            )
        except wandb_upstream.Refused as error:
            raise SinkDied(wandb_settings.explain(error)) from None  # wandb itself tries for minutes before it says so.
        except wandb_upstream.NoAnswer:
            return  # An outage: wandb retries, and says so itself when it gives up.
        self._report = msgspec.structs.replace(self._report, acknowledged=has + 1)
        if not self._arrived.seen(has, now):
            raise SinkDied(f"W&B has rows only up to number {has} of {self._logged}; sending the rest anew")
        if self._found is not None and has >= self._found:
            self._note_sent(wandb_log.unsent(self._base, self._run.id))

    def _note_sent(self, logs: list[Path]) -> None:
        """The server has what these logs hold: `wandb sync` must not send it a second time. Not so when the journal
        no longer had all that was missing there: then they are the only ones to have it."""
        if self._first is None or self._first <= self._run.starting_step:
            wandb_log.mark_sent(logs)

    def _update(self, info: RunInfo) -> None:
        known = _config(self._info) if self._info else {}
        fresh = {key: value for key, value in _config(info).items() if known.get(key) != value}
        if fresh:
            self._run.config.update(fresh, allow_val_change=True)
        if self._info and info.name and info.name != self._info.name:
            self._run.name = info.name
        if self._info and info.tags != self._info.tags:
            self._run.tags = tuple(info.tags)
        if self._info and info.notes and info.notes != self._info.notes:
            self._run.notes = info.notes

    def _summarise(self) -> None:
        """After the rows, each of which makes its values the summary's."""
        for name, value in (self._info.summary if self._info else {}).items():
            if is_refused(name) or (name in self._summarised and self._summarised[name] == value):
                continue
            self._summarised[name] = value
            if value is None:
                del self._run.summary[name]
            else:
                self._run.summary[name] = value

    def _announce(self, info: RunInfo) -> None:
        """Alerts, which W&B sends on by mail or chat; only there when their owner allowed them."""
        for name, severity, text, _ in info.alerts:
            if self._run is not None and name not in self._announced:
                self._announced.add(name)
                self._run.alert(name, text, level=LEVELS.get(severity, "INFO"), wait_duration=0)


def _define_axes(run: Any) -> None:
    for axis in AXES:
        run.define_metric(axis)
    run.define_metric("*", step_metric=STEP)


def _exit_code(info: RunInfo | None) -> int:
    if info is None or info.end not in ("failed", "lost"):
        return 0
    return info.exit_code or 1


def _config(info: RunInfo) -> dict[str, Any]:
    """The run's configuration, with facts about its model under ``model/``, where fine-tuning scripts put them."""
    facts = {f"model/{FACT_NAMES.get(key, key)}": value for key, value in info.model_facts.items()}
    own = {"stage": info.stage, "world_size": info.world_size, "total_steps": info.total_steps}
    if info.node is not None:
        own |= {"node/first_rank": info.node, "node/primary_run": wandb_account.run_id(info.run_id)}
    return {**facts, **{key: value for key, value in own.items() if value is not None}, **info.config}


FACT_NAMES = {"params": "total_params"}
LEVELS = {"critical": "ERROR", "warning": "WARN"}
