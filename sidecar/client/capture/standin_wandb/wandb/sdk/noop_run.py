"""``mode="disabled"``: a Run that does nothing."""

from typing import Any

from .lib import module
from .lib.disabled import SummaryDisabled
from .wandb_metric import Metric
from .wandb_run import Run
from .wandb_settings import Settings


class _Noop:
    def __getattr__(self, _: str) -> "_Noop":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "_Noop":
        return self


class NoopRun(Run):
    def __init__(self, settings: Settings, config: dict[str, Any]) -> None:
        super().__init__(settings, config)
        self.summary = SummaryDisabled()
        self._attach_id = None
        self._starting_step = 0

    def log(self, data: Any, *args: Any, **kwargs: Any) -> None:
        self.summary.update(data)

    def finish(self, *args: Any, **kwargs: Any) -> None:
        if module._package().run is self:
            module.unset_globals()

    def define_metric(self, *args: Any, **kwargs: Any) -> Metric:
        return Metric("dummy")

    def save(self, *args: Any, **kwargs: Any) -> Any:
        return False

    def log_artifact(self, *args: Any, **kwargs: Any) -> Any:
        return _Noop()

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    alert = finish_artifact = link_artifact = link_model = use_artifact = log_code = log_model = use_model = _nothing
    mark_preempting = restore = status = watch = write_logs = unwatch = upsert_artifact = _nothing
