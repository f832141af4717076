"""Accelerate: ``Accelerator(log_with=SidecarTracker("project"))``, then ``accelerator.log(values, step=step)``.

Given: what the main process logs. Hands on: log rows and the configuration. Never: reads a tensor on a device.
"""

from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

from sidecar.client import compat_rows as rows
from sidecar.client.run import Run, current


class SidecarTracker(GeneralTracker):
    """``facts`` go to ``sidecar.init``: name, stage, model, run_id and so on.

    ``accelerator.register_for_checkpointing(tracker)`` keeps the run's id in the checkpoints: after ``load_state``, and
    before ``init_trackers``, the run that is resumed goes on.
    """

    name = "sidecar"
    requires_logging_directory = False

    def __init__(self, run_name: str = "accelerate", **facts: Any) -> None:
        super().__init__()
        self.run_name, self._facts = run_name, facts
        self._run: Run | None = None

    @on_main_process
    def start(self) -> None:
        """Accelerate calls it in ``init_trackers``."""
        self._begin()

    def _begin(self) -> Run:
        if self._run is None:
            self._run = current() or rows.begin(self.run_name, **self._facts)
        return self._run

    def state_dict(self) -> dict[str, Any]:
        return {} if self._run is None else {"run_id": self._run.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "run_id" in state:
            self._facts.setdefault("run_id", state["run_id"])

    @property
    def tracker(self) -> Run | None:
        return self._run

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._begin().config(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        rows.log(self._begin(), values, step, texts=True)

    @on_main_process
    def finish(self) -> None:
        if self._run is not None:
            self._run.finish()
