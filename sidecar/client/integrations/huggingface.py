"""Hugging Face Trainer: ``Trainer(callbacks=[SidecarCallback()])``, or ``report_to="sidecar"`` once this is imported.

Given: the Trainer's events. Hands on: one step event per optimizer step on every rank, with samples and tokens counted
from the shapes the model sees, waits for data and the optimizer's time; what the main process logs; evaluation and
checkpoint phases; model facts; and with ``watch`` what `run.watch` sees inside the model.
Never: reads a tensor, changes the Trainer's control, or disturbs other callbacks.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import integration_utils

from sidecar.client import compat_rows as rows
from sidecar.client.facts import model_facts
from sidecar.client.integrations.counting import learning_rates, samples_and_tokens
from sidecar.client.run import Phase, Run, current
from sidecar.client.start import init

SYSTEM_STEPS = 10
END_OF_TRAINING = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
"""Totals of the whole training, which the Trainer logs once at its end."""
RENAMED = {"num_tokens": "num_tokens_seen"}
"""TRL's running total, under a name that says so: train/num_tokens is what one step consumed."""
STATE_KEY = "sidecar"
"""Where a checkpoint's trainer_state.json holds the run's id, beside the states of callbacks."""


class SidecarCallback(TrainerCallback):
    """``facts`` go to ``sidecar.init``: project, name, stage, run_id, model_facts and so on.

    A run that lives already (``sidecar.init`` in the script, or a captured library's) is used and left open. ``watch``
    looks inside the model: True, or the options of ``run.watch``.
    """

    def __init__(self, run: Run | None = None, *, watch: bool | Mapping[str, Any] = False, **facts: Any) -> None:
        self.run = run
        self._facts, self._owned, self._watch = facts, False, watch
        self._samples = self._tokens = 0
        self._hooks: list[Any] = []
        self._rates: dict[str, Any] = {}
        self._phase: Phase | None = None
        self._waiting: Phase | None = None
        self._save_began: float | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if self.run is None:
            self.run = current()
        config = {**_config_of(model), **args.to_sanitized_dict()}
        if self.run is None:
            self._owned = True
            facts = {"project": "huggingface", "name": args.run_name, "model": model, "total_steps": state.max_steps}
            self.run = init(**{**facts, "run_id": _run_id_in(state), "config": config, **self._facts})
        else:
            self.run.config({**config, "total_steps": state.max_steps})
            self.run.facts(model_facts(model, None))
        _keep_run_id(state, self.run.id)
        if self._hooks:
            return
        if model is not None:
            self._hooks.append(model.register_forward_pre_hook(self._count, with_kwargs=True).remove)
        if optimizer is not None:
            self._hooks.append(self.run.time_optimizer(optimizer).remove)
        if model is not None and self._watch is not False:
            options = self._watch if isinstance(self._watch, Mapping) else {}
            self._hooks.append(self.run.watch(model, optimizer, **options).close)

    def _count(self, model: Any, args: Any, kwargs: Any) -> None:
        if not model.training:
            return
        samples, tokens = samples_and_tokens(kwargs or args)
        self._samples += samples or 0
        self._tokens += tokens or 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._wait()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All micro-batches of the step are there."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.__exit__(None, None, None)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """The optimizer has stepped, the scheduler has not."""
        if optimizer is not None:
            self._rates = learning_rates([optimizer])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run is None:
            return
        self.run.step(
            state.global_step,
            samples=self._samples or None,
            tokens=self._tokens or None,
            epoch=state.epoch,
            metrics=self._rates,
        )
        self._samples = self._tokens = 0
        self._enter_evaluation(control)
        if not (control.should_evaluate or control.should_save or control.should_training_stop):
            self._wait()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_waiting()
        self._enter_evaluation(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.run is not None and state.is_world_process_zero and logs:
            self.run.log(canonical(logs), step=state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self._leave_evaluation()
        self._save_began = time.monotonic() if self._save_began is not None else None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run is not None and state.is_world_process_zero:
            began, self._save_began = self._save_began, None
            seconds = None if began is None else time.monotonic() - began
            name = f"checkpoint-{state.global_step}"
            path = os.path.join(args.output_dir, name)  # A trial of a hyperparameter search has a folder of its own.
            self.run.checkpoint(
                state.global_step, seconds=seconds, name=name, path=path if os.path.isdir(path) else None
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_waiting()
        self._leave_evaluation()
        while self._hooks:
            self._hooks.pop()()
        if self.run is not None and self._owned:
            self.run.finish()
            self.run, self._owned = None, False

    def _wait(self) -> None:
        """From here to the next step's beginning the Trainer fetches batches."""
        if self.run is not None and self._waiting is None and self._phase is None:
            self._waiting = self.run.phase("data_wait")
            self._waiting.__enter__()

    def _stop_waiting(self) -> None:
        """No step follows, so the time since is not a wait for data."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _enter_evaluation(self, control: Any) -> None:
        """The Trainer evaluates next: silence is expected meanwhile. When it saves next, the time is taken."""
        if self.run is None:
            return
        if control.should_evaluate and self._phase is None:
            self._phase = self.run.phase("evaluation")
            self._phase.__enter__()
        if control.should_save:
            self._save_began = time.monotonic()

    def _leave_evaluation(self) -> None:
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.__exit__(None, None, None)


class WandbMetricsCallback(TrainerCallback):
    """The continuous trainer's callback: ``WandbMetricsCallback(logger)`` with a ComprehensiveWandbLogger."""

    def __init__(self, wb_logger: Any, system_log_interval: int = SYSTEM_STEPS, gradient_log_interval: int = 0) -> None:
        """``gradient_log_interval`` of 0: no gradient and weight metrics, which cost a read of the device each."""
        self.wb_logger = wb_logger
        self.system_log_interval, self.gradient_log_interval = system_log_interval, gradient_log_interval

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.wb_logger.set_step(state.global_step)
        if self.system_log_interval and state.global_step % self.system_log_interval == 0:
            self.wb_logger.log_system_metrics()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        every = self.gradient_log_interval
        if every and model is not None and (state.global_step + 1) % every == 0:
            self.wb_logger.log_gradient_metrics(model, step=state.global_step + 1)
            self.wb_logger.log_weight_metrics(model, step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or not state.is_world_process_zero or "loss" not in logs:
            return
        known = {"loss", "learning_rate", "epoch"}
        self.wb_logger.log_training_metrics(
            train_loss=logs["loss"],
            learning_rate=logs.get("learning_rate"),
            epoch=logs.get("epoch"),
            step=state.global_step,
            **{RENAMED.get(name, name): value for name, value in logs.items() if name not in known},
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if not metrics or not state.is_world_process_zero:
            return
        self.wb_logger.log_training_metrics(eval_loss=metrics.get("eval_loss"), step=state.global_step)
        rest = {f"eval/{name.removeprefix('eval_')}": value for name, value in metrics.items() if name != "eval_loss"}
        self.wb_logger.log_custom(rest, step=state.global_step)


def canonical(logs: dict[str, Any]) -> dict[str, Any]:
    """The Trainer's names as train/* and eval/*, as its own W&B callback names them; evaluation gets its perplexity."""
    out: dict[str, Any] = {}
    for name, value in logs.items():
        if name.startswith("eval_"):
            out[f"eval/{name[5:]}"] = value
        elif name.startswith("test_"):
            out[f"test/{name[5:]}"] = value
        else:
            out[name if name in END_OF_TRAINING else f"train/{RENAMED.get(name, name)}"] = value
    if "eval/loss" in out:
        out["eval/perplexity"] = rows.perplexity(out["eval/loss"])
    return out


def _config_of(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    found = config.to_dict() if config is not None and hasattr(config, "to_dict") else config
    return dict(found) if isinstance(found, dict) else {}


def _run_id_in(state: Any) -> str | None:
    """The id of the run whose checkpoint is resumed, so that its curves go on; None at a first start."""
    saved = getattr(state, "stateful_callbacks", None)
    found = saved.get(STATE_KEY) if isinstance(saved, dict) else None
    run_id = found.get("run_id") if isinstance(found, dict) else None
    return run_id if isinstance(run_id, str) else None


def _keep_run_id(state: Any, run_id: str) -> None:
    saved = getattr(state, "stateful_callbacks", None)
    if isinstance(saved, dict):
        saved[STATE_KEY] = {"run_id": run_id}


integration_utils.INTEGRATION_TO_CALLBACK.setdefault("sidecar", SidecarCallback)
