"""The derived metrics of one step: what the sidecar computes and the trainer does not have to.

Given: a run's state right after a step, and the two ends of its window. Hands on: catalogue names with values.
Never: replaces a value that the trainer sent under that very name, except losses, which are joined over ranks; or
contains a value that is not known.
"""

from typing import Any

from sidecar.derive import mixture, progress
from sidecar.derive.smoothing import has_perplexity, perplexity, smooth
from sidecar.derive.throughput import Point
from sidecar.state import Join, RunState

JOINED_LOSS = frozenset({"train/loss"})
PHASE_TIMES = {
    "data_wait": "performance/data_loading_time_ms",
    "forward": "performance/forward_time_ms",
    "backward": "performance/backward_time_ms",
    "optimizer": "performance/optimizer_time_ms",
}


def derived_metrics(state: RunState, join: Join, loss: float | None, point: Point, oldest: Point) -> dict[str, Any]:
    step = join.step
    out: dict[str, Any] = {"train/global_step": step, "progress/step": step}
    if state.has_tokens:
        out["train/num_input_tokens_seen"] = state.tokens
    if state.has_loss_tokens:
        out["train/num_loss_tokens_seen"] = state.loss_tokens
    if loss is not None:
        if state.world_size > 1:
            out["train/loss"] = loss
        average = smooth(state, loss)
        if average is not None:
            out["train/loss_ema"] = average
        if has_perplexity(state):
            out["train/perplexity"] = perplexity(loss)
    elapsed_ns = point[0] - oldest[0]
    steps_per_second = tokens_per_second = None
    if elapsed_ns > 0 and point[3] > oldest[3]:
        seconds = elapsed_ns / 1e9
        out["train/steps_per_second"] = steps_per_second = (point[3] - oldest[3]) / seconds
        if state.has_tokens:
            tokens_per_second = (point[1] - oldest[1]) / seconds
            out["train/tokens_per_second"] = out["performance/tokens_per_second"] = tokens_per_second
        if state.has_samples:
            rate = (point[2] - oldest[2]) / seconds
            out["train/samples_per_second"] = out["performance/samples_per_second"] = rate
        if state.has_flops:
            out["train/flops_per_second"] = (point[4] - oldest[4]) / seconds
    _efficiency(state, out, tokens_per_second)
    if join.training_ns:
        out["performance/batch_time_ms"] = join.training_ns / 1e6
    for name, seconds in join.phases.items():
        if (target := PHASE_TIMES.get(name)) is not None:
            out[target] = seconds * 1e3
    out["train/total_training_time_seconds"] = state.training_ns / 1e9
    progress.describe(state, out, join, steps_per_second)
    joined: frozenset[str] = frozenset()
    if state.world_size > 1:
        joined = JOINED_LOSS
        if join.dataset_losses:
            losses = mixture.joined_losses(join.dataset_losses)
            out.update(losses)
            joined = joined.union(losses)
    if join.datasets:
        mixture.describe(state, out, join.datasets)
    if not out.keys().isdisjoint(join.metrics):
        for name in (out.keys() & join.metrics.keys()) - joined - set(state.read_as):
            del out[name]
    return out


def _efficiency(state: RunState, out: dict[str, Any], tokens_per_second: float | None) -> None:
    """FLOP/s = FLOPs per token x tokens/s; MFU = FLOP/s over peak x devices, a device per reporting rank."""
    model = state.model
    per_token = model.flops_per_token
    achieved = None
    if state.has_flops:
        out["train/flops_total"] = state.flops
        achieved = out.get("train/flops_per_second")
    elif per_token is not None and state.has_tokens:
        out["train/flops_total"] = per_token * state.tokens
        if tokens_per_second is not None:
            out["train/flops_per_second"] = achieved = per_token * tokens_per_second
    if achieved is not None and model.peak_flops is not None:
        percent = 100.0 * achieved / (model.peak_flops * state.devices)
        out["train/mfu_percent"] = percent
        if model.flops_per_token_causal is not None and per_token is not None:
            out["train/mfu_causal_percent"] = percent * model.flops_per_token_causal / per_token
