"""The names of the package that follow the current run: ``wandb.run``, ``wandb.log`` and so on."""

import sys
from typing import Any

FOLLOWING = (
    "log", "save", "use_artifact", "log_artifact", "define_metric", "alert", "watch", "unwatch", "mark_preempting",
    "log_model", "use_model", "link_model", "pin_config_keys",
)  # fmt: skip
_before: dict[str, Any] = {}


def set_global(run: Any) -> None:
    package = _package()
    if not _before:
        _before.update({name: getattr(package, name) for name in (*FOLLOWING, "run", "config", "summary")})
    package.run, package.config, package.summary = run, run.config, run.summary
    for name in FOLLOWING:
        setattr(package, name, getattr(run, name))


def unset_globals() -> None:
    package = _package()
    for name, value in _before.items():
        setattr(package, name, value)


def _package() -> Any:
    return sys.modules[__name__.partition(".")[0]]
