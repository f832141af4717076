"""What define_metric returns."""

from collections.abc import Sequence


class Metric:
    def __init__(
        self,
        name: str,
        step_metric: str | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: Sequence[str] | None = None,
        overwrite: bool | None = None,
    ) -> None:
        self.name, self.step_metric, self.hidden = name, step_metric, hidden
        self.step_sync = step_sync if step_sync is not None else step_metric is not None
        self.summary = None if summary is None else tuple(summary)
        self.overwrite = overwrite
