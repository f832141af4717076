"""Sweeps are run by W&B's server: without it there are none."""

from typing import Any

from ..errors import UsageError


def _no_sweeps(*_: Any, **__: Any) -> Any:
    raise UsageError("sweeps need the W&B server: run this script without --capture wandb, or with --capture wandb+")


sweep = controller = agent = _no_sweeps
