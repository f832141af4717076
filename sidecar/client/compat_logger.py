"""``Logger``: one interface over W&B, TensorBoard or nothing, as BDH training scripts import it.

Given: metrics, texts, histograms with their steps. Hands on: events; the sidecar sends them to the outlets named.
Never: imports wandb or TensorBoard: ``backend`` only says which outlets the run asks for.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.client import compat_rows as rows
from sidecar.client.compat_model import sample_name
from sidecar.client.run import Run

BACKENDS = ("wandb", "tensorboard", "none")
PROJECT_DEFAULT = "bdh-training"


class Logger:
    def __init__(
        self,
        backend: str = "wandb",
        config: Mapping[str, Any] | str | None = None,
        project_name: str | None = None,
        *,
        project: str | None = None,
        entity: str | None = None,
        log_dir: str | None = None,
        name: str | None = None,
        stage: str | None = None,
        **facts: Any,
    ) -> None:
        """``backend`` is wandb, tensorboard, none, or several of them with commas. ``config`` belongs to the run.

        A text as second argument is the project: ``Logger("wandb", "my-project")``. ``facts`` go to ``sidecar.init``:
        model, total_steps, run_id and so on. Raises ValueError for an unknown backend.
        """
        self.backend = backend
        chosen = [word.strip() for word in backend.split(",") if word.strip()]
        for word in chosen:
            if word not in BACKENDS:
                raise ValueError(f"unknown backend {word!r}: choose from {', '.join(BACKENDS)}")
        if isinstance(config, str):
            project, config = project or config, None
        self.run: Run | None = None
        if chosen == ["none"] or not chosen:
            return
        settings = dict(config or {})
        if log_dir is not None:
            settings.setdefault("log_dir", str(log_dir))
        self.run = rows.begin(
            project or project_name or PROJECT_DEFAULT,
            name,
            config=settings,
            entity=entity,
            stage=stage,
            sinks=[word for word in chosen if word != "none"],
            **facts,
        )

    @rows.never_raises
    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Numbers, also 0-d tensors on any device: nothing waits for them."""
        if self.run is not None:
            rows.log(self.run, {_CANONICAL.get(name, name): value for name, value in metrics.items()}, step)

    @rows.never_raises
    def log_text(self, name: str, text: str, step: int) -> None:
        """Kept on this machine; a bare prompt as name becomes ``sample/...``."""
        if self.run is not None:
            self.run.text(name if "/" in name else sample_name(name), text, step=step)

    @rows.never_raises
    def log_histogram(self, name: str, values: Any, step: int) -> None:
        """64 bins, computed where the tensor is; only they leave the process."""
        if self.run is not None:
            self.run.histogram(name, values, step=step)

    def finish(self) -> None:
        """Waits at most ten seconds for the sidecar. Idempotent; also called when the process ends."""
        if self.run is not None:
            self.run.finish()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()


_CANONICAL = {
    "train/lr": "train/learning_rate",
    "train/step": "train/global_step",
    "val_loss": "val/loss",
    "val_perplexity": "val/perplexity",
    "val_accuracy": "val/accuracy",
}
