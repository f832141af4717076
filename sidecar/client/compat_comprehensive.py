"""``ComprehensiveWandbLogger``: the logger of continuous fine-tuning scripts, metric by metric.

Given: the arguments of its ``log_*`` methods. Hands on: rows under its names. Never: sends a text where a number
belongs (it logs metrics only), reads the host or NVML (the sidecar does), or waits for a device outside the two methods
that measure a model.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from sidecar.client import compat_rows as rows
from sidecar.client import compat_weights as weights
from sidecar.client import values
from sidecar.client.run import Run

LANGUAGES_MAX = 50


class ComprehensiveWandbLogger:
    def __init__(
        self,
        project: str,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        enabled: bool = True,
        log_frequency: int = 10,
    ) -> None:
        """``enabled=False`` makes every method do nothing: no run, no socket, no file."""
        self.enabled, self.log_frequency = enabled, log_frequency
        self.step, self.epoch = 0, 0
        self.run: Run | None = None
        if enabled:
            given = {key: value for key, value in dict(config or {}).items() if not str(key).startswith("__")}
            self.run = rows.begin(project, name, config=given)

    # -- training ----------------------------------------------------------------------------------------------------

    @rows.never_raises
    def log_training_metrics(
        self,
        train_loss: Any = None,
        eval_loss: Any = None,
        learning_rate: Any = None,
        epoch: Any = None,
        step: int | None = None,
        *,
        loss: Any = None,
        **kwargs: Any,
    ) -> None:
        """Losses with their perplexities, learning rate, epoch; further keywords as train/<name>."""
        train_loss = loss if train_loss is None else train_loss
        if epoch is not None:
            self.epoch = epoch
        self._log(
            {
                "train/loss": train_loss,
                "train/perplexity": rows.perplexity(train_loss),
                "eval/loss": eval_loss,
                "eval/perplexity": rows.perplexity(eval_loss),
                "train/learning_rate": learning_rate,
                "train/epoch": epoch,
                **{f"train/{name}": value for name, value in kwargs.items()},
            },
            step,
        )

    @rows.never_raises
    def log_batch_metrics(
        self,
        batch_loss: Any = None,
        batch_size: int | None = None,
        learning_rate: Any = None,
        grad_norm: Any = None,
        step: int | None = None,
        *,
        loss: Any = None,
    ) -> None:
        """One micro-batch: its loss, perplexity and size; the gradient norm of the step it belongs to."""
        batch_loss = loss if batch_loss is None else batch_loss
        self._log(
            {
                "batch/loss": batch_loss,
                "batch/perplexity": rows.perplexity(batch_loss),
                "batch/size": batch_size,
                "train/learning_rate": learning_rate,
                "batch/grad_norm": grad_norm,
            },
            step,
        )

    @rows.never_raises
    def log_gradient_metrics(self, model: Any, step: int | None = None) -> None:
        """Norms of the gradients: global (root of the sum of squares), mean, largest, smallest, and of some layers."""
        if self.run is not None:
            self._log(weights.gradient_metrics(model), step)

    @rows.never_raises
    def log_weight_metrics(self, model: Any, step: int | None = None) -> None:
        """Mean and standard deviation of all weights, element by element, and of some layers."""
        if self.run is not None:
            self._log(weights.weight_metrics(model), step)

    # -- machine -----------------------------------------------------------------------------------------------------

    @rows.never_raises
    def log_system_metrics(self, step: int | None = None) -> None:
        """The allocator's facts. CPU, memory, disk and GPU readings are the sidecar's, taken every second and at every
        tenth step."""
        if self.run is not None:
            self._log(weights.allocator_metrics(), step)

    # -- data --------------------------------------------------------------------------------------------------------

    @rows.never_raises
    def log_data_quality_metrics(
        self,
        total_samples: int,
        avg_quality_score: float,
        language_distribution: Mapping[str, int],
        avg_code_length: float,
        security_stats: Mapping[str, int] | None = None,
    ) -> None:
        """Counts and shares per language (at most 50, the rest as "other"); what was blocked, and the share passed."""
        if self.run is None:
            return
        row: dict[str, Any] = {
            "data/total_samples": total_samples,
            "data/avg_quality_score": avg_quality_score,
            "data/avg_code_length": avg_code_length,
        }
        counts = _bounded(language_distribution or {})
        total = sum(counts.values())
        for language, count in counts.items():
            row[f"data/language_{language}"] = count
            share = rows.ratio(count, total)
            row[f"data/language_{language}_percent"] = None if share is None else 100.0 * share
        if security_stats:
            blocked = sum(int(rows.number(count) or 0) for count in security_stats.values())
            for kind in ("malicious", "secrets", "license"):
                row[f"data/blocked_{kind}"] = security_stats.get(kind, 0)
            row["data/blocked_total"] = blocked
            passed = rows.ratio(total_samples, (rows.number(total_samples) or 0.0) + blocked)
            row["data/pass_rate"] = None if passed is None else 100.0 * passed
        self._log(row)

    @rows.never_raises
    def log_dataset_stats(
        self, train_size: int, eval_size: int, avg_tokens_per_sample: float, max_tokens: int, min_tokens: int
    ) -> None:
        self._log(
            {
                "dataset/train_size": train_size,
                "dataset/eval_size": eval_size,
                "dataset/total_size": None if train_size is None or eval_size is None else train_size + eval_size,
                "dataset/train_eval_ratio": rows.ratio(train_size, eval_size),
                "dataset/avg_tokens_per_sample": avg_tokens_per_sample,
                "dataset/max_tokens": max_tokens,
                "dataset/min_tokens": min_tokens,
            }
        )

    # -- speed -------------------------------------------------------------------------------------------------------

    @rows.never_raises
    def log_performance_metrics(
        self,
        samples_per_second: float | None,
        tokens_per_second: float | None,
        batch_time: float | None,
        data_loading_time: float | None = None,
        forward_time: float | None = None,
        backward_time: float | None = None,
    ) -> None:
        """Times in seconds; they arrive in milliseconds."""
        self._log(
            {
                "performance/samples_per_second": samples_per_second,
                "performance/tokens_per_second": tokens_per_second,
                "performance/batch_time_ms": rows.milliseconds(batch_time),
                "performance/data_loading_time_ms": rows.milliseconds(data_loading_time),
                "performance/forward_time_ms": rows.milliseconds(forward_time),
                "performance/backward_time_ms": rows.milliseconds(backward_time),
            }
        )

    @rows.never_raises
    def log_code_metrics(
        self,
        avg_lines_of_code: float | None = None,
        avg_complexity: float | None = None,
        has_comments_percent: float | None = None,
        has_docstrings_percent: float | None = None,
        **numbers: Any,
    ) -> None:
        """Numbers about code, never code: a text is left out and counted."""
        self._log(
            {
                "code/avg_lines": avg_lines_of_code,
                "code/avg_complexity": avg_complexity,
                "code/comments_percent": has_comments_percent,
                "code/docstrings_percent": has_docstrings_percent,
                **{f"code/{name}": value for name, value in numbers.items()},
            }
        )

    @rows.never_raises
    def log_training_progress(
        self, current_step: int, total_steps: int, epoch: float, total_epochs: float, eta_seconds: float | None = None
    ) -> None:
        steps, epochs = rows.ratio(current_step, total_steps), rows.ratio(epoch, total_epochs)
        self._log(
            {
                "progress/step": current_step,
                "progress/step_percent": None if steps is None else 100.0 * steps,
                "progress/epoch": epoch,
                "progress/epoch_percent": None if epochs is None else 100.0 * epochs,
                "progress/eta_minutes": rows.ratio(eta_seconds, 60.0),
                "progress/eta_hours": rows.ratio(eta_seconds, 3600.0),
            }
        )

    # -- the run -----------------------------------------------------------------------------------------------------

    @rows.never_raises
    def log_model_config(
        self,
        model_name: str,
        total_params: int,
        trainable_params: int,
        lora_r: int | None = None,
        lora_alpha: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        max_length: int | None = None,
    ) -> None:
        """Into the run's configuration; parameters and sequence length also into the model facts."""
        if self.run is None:
            return
        trainable = rows.ratio(trainable_params, total_params)
        given = {
            "model/name": model_name,
            "model/total_params": total_params,
            "model/trainable_params": trainable_params,
            "model/trainable_percent": None if trainable is None else 100.0 * trainable,
            "model/lora_r": lora_r,
            "model/lora_alpha": lora_alpha,
            "hyperparams/batch_size": batch_size,
            "hyperparams/learning_rate": learning_rate,
            "hyperparams/max_length": max_length,
        }
        self.run.config({name: value for name, value in given.items() if value is not None})
        facts = {"params": total_params, "trainable_params": trainable_params, "seq_len": max_length}
        self.run.facts({name: value for name, value in facts.items() if value is not None})

    @rows.never_raises
    def log_continuous_training_state(
        self, run_number: int, total_runs: int, last_trained_id: int, total_samples_trained: int, uptime_hours: float
    ) -> None:
        self._log(
            {
                "continuous/run_number": run_number,
                "continuous/total_runs": total_runs,
                "continuous/last_trained_id": last_trained_id,
                "continuous/total_samples_trained": total_samples_trained,
                "continuous/uptime_hours": uptime_hours,
            }
        )

    @rows.never_raises
    def log_custom(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._log(metrics, step)

    def increment_step(self) -> None:
        self.step += 1

    def set_step(self, step: int) -> None:
        self.step = step

    def finish(self) -> None:
        """Idempotent; also called when the process ends."""
        if self.run is not None:
            self.run.finish()

    def _log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self.run is None:
            return
        at = values.step_number(step)
        if at is not None:
            self.step = max(self.step, at)
        rows.log(self.run, metrics, self.step if step is None else step)


def _bounded(counts: Mapping[str, int]) -> dict[str, int]:
    known = {name: count for name, count in counts.items() if rows.number(count) is not None}
    ordered = sorted(known.items(), key=lambda item: -item[1])
    kept = dict(ordered[:LANGUAGES_MAX])
    if len(ordered) > LANGUAGES_MAX:
        kept["other"] = kept.get("other", 0) + sum(count for _, count in ordered[LANGUAGES_MAX:])
        warnings.warn(f"more than {LANGUAGES_MAX} languages: the rarest are counted as 'other'", stacklevel=4)
    return kept

