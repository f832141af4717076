"""How far a run is: percent, epoch, time in the epoch, time to go.

Given: joined steps. Hands on: progress/* and epoch values. Never: guesses a time before five steps were seen.
"""

from typing import Any

from sidecar.state import Join, RunState

ETA_STEPS_MIN = 5


def enter_epoch(state: RunState, join: Join) -> None:
    """Detects that a new epoch has begun.

    A fractional epoch that reaches a whole number (epoch + step / iterations at the last iteration) still belongs to
    the epoch that it completes; the next value above it starts a new one. Where only whole numbers are sent, each is
    the number of the epoch in progress.
    """
    value = join.metrics.get("train/epoch")
    if value is None:
        value = derive_epoch(state)
        if value is None:
            return
    elif type(value) is not float and type(value) is not int or not -1e15 < value < 1e15:
        return
    whole = int(value // 1)
    if value != whole:
        state.epoch_fractional = True
    elif state.epoch_fractional and state.epoch_index == whole - 1:
        whole -= 1
    state.epoch = float(value)
    if state.epoch_index is None:
        state.epoch_index = whole
        state.epoch_started_ns = join.mono_ns - join.training_ns
    elif whole != state.epoch_index:
        state.epoch_index = whole
        state.epoch_before_ns = 0
        window = state.window
        previous = window.at - 2
        if previous >= window.oldest:  # It began when the last step of the previous epoch ended.
            state.epoch_started_ns = window.points[previous % len(window.points)][0]
        else:
            state.epoch_started_ns = join.mono_ns - join.training_ns


def new_clock(state: RunState, join: Join) -> None:
    """Keeps the time already spent in this epoch when another process continues it. The window is not cleared yet."""
    if state.epoch_started_ns is not None:
        points = state.window.points
        if points:
            last_ns = points[(state.window.at - 1) % len(points)][0]
            state.epoch_before_ns += max(0, last_ns - state.epoch_started_ns)
        state.epoch_started_ns = join.mono_ns - join.training_ns


def derive_epoch(state: RunState) -> float | None:
    """From the samples seen over the datasets' sizes, when both are known."""
    per_epoch = state.facts.get("steps_per_epoch") or state.config.get("steps_per_epoch")
    if type(per_epoch) is int and per_epoch > 0 and state.step is not None:
        return state.step / per_epoch
    sizes = state.facts.get("dataset_sizes") or state.config.get("dataset_sizes")
    if isinstance(sizes, dict) and state.datasets:
        known = [name for name in sizes if type(sizes[name]) is int and sizes[name] > 0]
        total = sum(sizes[name] for name in known)
        if total:
            return float(sum(state.datasets.get(name, (0, 0))[0] for name in known) / total)
    return None


def describe(state: RunState, out: dict[str, Any], join: Join, steps_per_second: float | None) -> None:
    epoch = state.epoch
    if epoch is not None:
        out["progress/epoch"] = epoch
        if "train/epoch" not in join.metrics:
            out["train/epoch"] = epoch
        if state.epoch_fractional and state.epoch_index is not None:
            out["progress/epoch_percent"] = 100.0 * (epoch - state.epoch_index)
        if state.epoch_started_ns is not None:
            out["system/epoch_time"] = (join.mono_ns - state.epoch_started_ns + state.epoch_before_ns) / 6e10
    total = state.total_steps
    if total:
        out["progress/step_percent"] = min(100.0, 100.0 * join.step / total)
        if steps_per_second is not None and state.steps_seen >= ETA_STEPS_MIN:
            minutes = remaining_steps(state, join.step, total) / steps_per_second / 60.0
            out["train/eta_minutes"] = out["progress/eta_minutes"] = minutes
            out["progress/eta_hours"] = minutes / 60.0


def remaining_steps(state: RunState, step: int, total: int) -> int:
    """Where steps are numbered from 0, one more is done than the number says."""
    return max(0, total - step - (1 if state.first_step == 0 else 0))
