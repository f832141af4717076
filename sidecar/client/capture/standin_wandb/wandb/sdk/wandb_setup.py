"""Process-wide settings: the environment as it was when the library was first used, as wandb keeps it."""

import os
from typing import Any

from .wandb_settings import Settings


class _Setup:
    def __init__(self, settings: Any = None) -> None:
        self.settings = Settings.from_environment()
        self.settings.update(Settings.of(settings))
        self.config: dict[str, Any] = {}


_singleton: _Setup | None = None


def setup(settings: Any = None) -> _Setup:
    global _singleton
    if _singleton is None:
        _singleton = _Setup(settings)
    elif settings is not None:
        _singleton.settings.update(Settings.of(settings))
    return _singleton


def teardown(exit_code: int | None = None) -> None:
    """Finish every run of this process."""
    from .wandb_run import active_runs

    global _singleton
    _singleton = None
    for run in list(active_runs):
        if run._init_pid == os.getpid():
            run.finish(exit_code)


def require(requirement: Any = None, experiment: Any = None) -> None:
    pass
