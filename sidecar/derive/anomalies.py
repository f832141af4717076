"""Detects losses and gradient norms that somebody should look at.

Given: one value per step. Hands on: alerts, bounded, one per kind with a count.
Never: acts on the run, or alarms on the noise of a steady one (a value must also differ by a relative margin).

Rules and thresholds are common ones: six sigma over 128 values (OLMo-core) and 5 % above the median for the loss, six
sigma or ten times the median for the gradient norm. A value that is not finite is an alert at once.
"""

import math
from statistics import median

from sidecar.state import ALERTS_MAX, AlertState, RunState, Statistic

VALUES_MAX = 128
VALUES_MIN = 32
SIGMAS = 6.0
LOSS_MARGIN = 0.05
GRAD_FLOOR = 1.5
GRAD_RATIO = 10.0
VALUE_MAX = 1e150  # The sum of squares would overflow.


def watch_loss(state: RunState, loss: float, step: int, time_ns: int) -> None:
    if not math.isfinite(loss):
        alert(state, "loss_nonfinite", "critical", f"loss is {loss} at step {step}", step, time_ns)
        return
    series = state.loss_series
    if loss * len(series.values) > series.total and _outlies(series, loss):
        middle = median(series.values)
        if loss - middle > LOSS_MARGIN * abs(middle):
            text = f"loss {loss:.4g} at step {step} is far above its recent median {middle:.4g}"
            alert(state, "loss_spike", "warning", text, step, time_ns)
    push(series, loss)


def watch_gradient(state: RunState, norm: float, step: int, time_ns: int) -> None:
    if not math.isfinite(norm):
        text = f"gradient norm is {norm} at step {step}"
        alert(state, "grad_nonfinite", "critical", text, step, time_ns)
        return
    series = state.grad_series
    count = len(series.values)
    if count >= VALUES_MIN and norm * count > series.total:
        suspect = _outlies(series, norm) or norm > GRAD_RATIO / 2 * series.total / count
        if suspect:
            middle = median(series.values)
            if norm > GRAD_RATIO * middle or (norm > GRAD_FLOOR * middle and _outlies(series, norm)):
                text = f"gradient norm {norm:.4g} at step {step} against a recent median of {middle:.4g}"
                alert(state, "grad_explosion", "warning", text, step, time_ns)
    push(series, norm)


def push(series: Statistic, value: float) -> None:
    if abs(value) > VALUE_MAX:
        return
    values, at = series.values, series.at
    if len(values) < VALUES_MAX:
        values.append(value)
    else:
        gone = values[at]
        values[at] = value
        series.total -= gone
        series.squares -= gone * gone
    series.total += value
    series.squares += value * value
    series.at = at = (at + 1) % VALUES_MAX
    if at == 0:  # Once per round of the buffer, so that rounding errors do not accumulate.
        series.total = math.fsum(values)
        series.squares = math.fsum(value * value for value in values)


def _outlies(series: Statistic, value: float) -> bool:
    count = len(series.values)
    if count < VALUES_MIN:
        return False
    mean = series.total / count
    above = value - mean
    if above <= 0:
        return False
    variance = series.squares / count - mean * mean
    return above * above > SIGMAS * SIGMAS * variance


def alert(state: RunState, name: str, severity: str, message: str, step: int | None, time_ns: int) -> None:
    """The newest of each kind replaces the previous one and continues its count."""
    count = 1
    for index, known in enumerate(state.alerts):
        if known.name == name:
            count += known.count
            del state.alerts[index]
            break
    state.alerts.insert(0, AlertState(name, severity, message, step, time_ns, count))
    del state.alerts[ALERTS_MAX:]
