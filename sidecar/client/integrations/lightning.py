"""Lightning: ``Trainer(logger=SidecarLogger("project"), callbacks=[SidecarCallback()])``; each also alone.

Given: Lightning's hooks. Hands on: one step event per optimizer step on every rank, with samples and tokens counted
from the batch's shapes, and the optimizer's time; what the modules log, from rank zero; validation and checkpoint
phases; hyperparameters; and with ``watch`` what `run.watch` sees inside the model.
Never: reads a tensor: ``self.log`` values are passed on as they are.
"""

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    from lightning.pytorch.utilities import rank_zero_only
except ImportError:  # The older name of the same library.
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
    from pytorch_lightning.utilities import rank_zero_only

from sidecar.client.facts import model_facts
from sidecar.client.integrations.counting import learning_rates, samples_and_tokens
from sidecar.client.run import Phase, Run, current
from sidecar.client.start import init

PROJECT_DEFAULT = "lightning"


class SidecarLogger(Logger):
    """``facts`` go to ``sidecar.init``: name, stage, run_id, config, model_facts and so on."""

    def __init__(self, project: str = PROJECT_DEFAULT, *, run: Run | None = None, **facts: Any) -> None:
        super().__init__()
        self.project, self.facts = project, facts
        self._run, self._owned = run, False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run; on other ranks than zero Lightning hands out a dummy.

        Lightning asks for it before anything is known of the training, or of the checkpoint that is resumed: what it
        gets then begins the run when it is first used.
        """
        return self._run or _LazyRun(self)

    def begin(self, **more: Any) -> Run:
        """The run of this process, begun when nobody has."""
        if self._run is None:
            self._run = current()
        if self._run is None:
            self._owned = True
            self._run = init(self.project, **{**more, **self.facts})
        return self._run

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return None if self._run is None else self._run.id

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.begin().config(dict(vars(params) if isinstance(params, Namespace) else params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.begin().log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning calls it after each of fit, validate and test: the run stays open until the process ends."""
        if self._run is not None and status == "failed":
            self._run.finish("failed", reason="Lightning says: failed")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}


class _LazyRun:
    """Begins the run when one of its attributes is first used."""

    def __init__(self, logger: SidecarLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # While it is copied there is no logger yet.
            raise AttributeError(name)
        return getattr(self._logger.begin(), name)


class SidecarCallback(Callback):
    """Steps of every rank. Uses the SidecarLogger's run, the one that lives, or begins one with ``facts``.

    ``watch`` looks inside the model: True, or the options of ``run.watch``.
    """

    def __init__(self, run: Run | None = None, *, watch: bool | Mapping[str, Any] = False, **facts: Any) -> None:
        self.run = run
        self._facts, self._watch = facts, watch
        self._hooks: list[Any] = []
        self._rates: dict[str, Any] = {}
        self._samples = self._tokens = self._steps = 0
        self._phase: Phase | None = None
        self._resumed_id: str | None = None
        self._checkpoint: tuple[int, int] | None = None
        """A checkpoint is being written: its step, and Lightning's own count (once for each optimizer)."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the run's id, so that the curves go on where training is resumed."""
        return {"run_id": self.run.id} if self.run is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed_id = state_dict.get("run_id")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._steps = int(trainer.global_step)
        if self.run is None:
            logger = next((found for found in trainer.loggers if isinstance(found, SidecarLogger)), None)
            facts: dict[str, Any] = {
                "model": pl_module, "rank": trainer.global_rank, "world_size": trainer.world_size,
                "run_id": self._resumed_id, **self._facts,
            }  # fmt: skip
            steps = trainer.estimated_stepping_batches
            if isinstance(steps, int) and steps > 0:
                facts.setdefault("total_steps", steps)
            live = current()
            if live is not None:  # Begun before Lightning knew how long it would go on.
                live.facts(model_facts(pl_module, None))
                live.config({"total_steps": facts["total_steps"]} if "total_steps" in facts else {})
            if logger is not None:
                self.run = logger.begin(**facts)
            else:
                self.run = live or init(facts.pop("project", PROJECT_DEFAULT), **facts)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """By now the optimizers are there, restored ones included."""
        if self.run is None or self._hooks:
            return
        self._hooks += [self.run.time_optimizer(optimizer).remove for optimizer in trainer.optimizers]
        if self._watch is not False:
            options = self._watch if isinstance(self._watch, Mapping) else {}
            self._hooks.append(self.run.watch(pl_module, trainer.optimizers, **options).close)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._report_checkpoint(trainer)
        while self._hooks:
            self._hooks.pop()()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._report_checkpoint(trainer)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._rates = learning_rates(trainer.optimizers)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        samples, tokens = samples_and_tokens(batch)
        self._samples += samples or 0
        self._tokens += tokens or 0
        if self.run is None or not self._optimizers_stepped(trainer):
            return
        self.run.step(
            _steps_of(trainer) - (not hasattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped")),
            samples=self._samples or None,
            tokens=self._tokens or None,
            epoch=trainer.current_epoch + (batch_idx + 1) / max(1, _batches_of(trainer)),
            metrics=self._rates,
        )
        self._samples = self._tokens = 0

    def _optimizers_stepped(self, trainer: Any) -> bool:
        """Did the optimizers step with this batch? Lightning's own counter moves only after its callbacks."""
        loop = trainer.fit_loop.epoch_loop
        if hasattr(loop, "_should_accumulate"):
            return not loop._should_accumulate()
        before, self._steps = self._steps, int(trainer.global_step)
        return self._steps != before

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._report_checkpoint(trainer)
        if self.run is not None and self._phase is None:
            self._phase = self.run.phase("evaluation")
            self._phase.__enter__()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.__exit__(None, None, None)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Called before the file is written."""
        self._checkpoint = _steps_of(trainer), int(trainer.global_step)

    def _report_checkpoint(self, trainer: Any) -> None:
        """Report the checkpoint once its file is there. Lightning calls no hook then: it is done in the next one."""
        saving, self._checkpoint = self._checkpoint, None
        if saving is None or self.run is None or not trainer.is_global_zero:
            return
        step, count = saving
        self.run.checkpoint(step, path=_written(trainer.checkpoint_callbacks, count))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._report_checkpoint(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._report_checkpoint(trainer)
        if self.run is not None:
            self.run.finish("failed", reason=type(exception).__name__)


def _steps_of(trainer: Any) -> int:
    """Batches before this one with which the optimizers stepped, all as one: ``global_step`` counts each of them."""
    found = getattr(getattr(trainer.fit_loop, "epoch_loop", None), "_batches_that_stepped", None)
    return int(trainer.global_step if found is None else found)


def _written(callbacks: Any, count: int) -> str | None:
    """The file or folder that a ModelCheckpoint wrote at this step; None when a script saved by itself."""
    for callback in callbacks:
        if getattr(callback, "_last_global_step_saved", None) == count:
            path = getattr(callback, "_last_checkpoint_saved", None)
            if path and os.path.exists(path):
                return str(path)
    return None


def _batches_of(trainer: Any) -> int:
    batches = trainer.num_training_batches
    return int(batches) if isinstance(batches, int) or batches < float("inf") else 0
