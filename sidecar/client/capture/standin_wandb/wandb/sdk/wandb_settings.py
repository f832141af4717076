"""Settings: what a script may set, and what its environment says.

Given: keywords and WANDB_* variables. Hands on: one object with attributes; those nobody set have wandb's defaults.
Never: checks more than real wandb's users rely on.
"""

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError
from ..errors.errors import InvalidSetting
from . import settings_defaults

MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
FROM_ENVIRONMENT = {
    "WANDB_MODE": "mode", "WANDB_PROJECT": "project", "WANDB_ENTITY": "entity", "WANDB_NAME": "run_name",
    "WANDB_RUN_ID": "run_id", "WANDB_RESUME": "resume", "WANDB_NOTES": "run_notes", "WANDB_RUN_GROUP": "run_group",
    "WANDB_JOB_TYPE": "run_job_type", "WANDB_DIR": "root_dir", "WANDB_TAGS": "run_tags", "WANDB_SILENT": "silent",
    "WANDB_BASE_URL": "base_url", "WANDB_API_KEY": "api_key",
}  # fmt: skip
ALIASES = {"id": "run_id", "name": "run_name", "notes": "run_notes", "tags": "run_tags", "group": "run_group",
           "job_type": "run_job_type", "dir": "root_dir"}  # fmt: skip


class Settings:
    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            setattr(self, name, value)

    @classmethod
    def of(cls, given: Any) -> "Settings":
        if given is None:
            return cls()
        return cls(**(given if isinstance(given, Mapping) else vars(given)))

    @classmethod
    def from_environment(cls) -> "Settings":
        settings = cls()
        for variable, value in os.environ.items():
            if variable.startswith("WANDB_") and value:
                name = FROM_ENVIRONMENT.get(variable, variable.removeprefix("WANDB_").lower())
                if name in settings_defaults.CONSTANTS or name in FROM_ENVIRONMENT.values():
                    setattr(settings, name, value)
        return settings

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, ALIASES.get(name, name), _checked(ALIASES.get(name, name), value))

    def __getattr__(self, name: str) -> Any:
        try:
            return settings_defaults.of(self, name)
        except KeyError:
            raise AttributeError(f"'Settings' object has no attribute {name!r}") from None

    def update(self, other: "Settings") -> None:
        for name, value in vars(other).items():
            if value is not None:
                setattr(self, name, value)

    def model_copy(self, **_: Any) -> "Settings":
        return copy.deepcopy(self)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.model_dump().items()

    def model_dump(self, **_: Any) -> dict[str, Any]:
        computed = {name: getattr(self, name) for name in settings_defaults.COMPUTED}
        return {**settings_defaults.CONSTANTS, **computed, **vars(self)}


def _checked(name: str, value: Any) -> Any:
    """Raises UsageError; for a wrong mode InvalidSetting, which is also a ValueError."""
    if value is None:
        return None
    if name == "mode" and value not in MODES:
        raise InvalidSetting(f"mode: Input should be {', '.join(map(repr, MODES))}, not {value!r}")
    if name == "run_id":
        value = str(value)
        if not value or any(char in ":;,#?/'" for char in value):
            raise UsageError("Run ID cannot contain the characters: :;,#?/'" if value else "Run ID cannot be empty")
        if value != value.strip():
            raise UsageError("Run ID cannot start or end with whitespace")
    if name == "project":
        value = str(value)
        found = next((char for char in value if char in "/\\#?%:"), None)
        if found is not None:
            message = "cannot contain characters '/,\\\\,#,?,%,:', found"
            raise UsageError(f"Invalid project name {value!r}: {message} {found!r}")
        if len(value) > 128:
            raise UsageError(f"Invalid project name {value!r}: exceeded 128 characters")
    default = settings_defaults.CONSTANTS.get(name)
    if isinstance(default, bool | int | float) and isinstance(value, str):
        return _parsed(name, value, type(default))
    if name == "run_tags":
        value = tuple(tag.strip() for tag in value.split(",")) if isinstance(value, str) else tuple(value)
    return value


def _parsed(name: str, text: str, kind: type) -> Any:
    """The value of a variable. Raises InvalidSetting for one that is not of this kind."""
    try:
        return _BOOLEANS[text.strip().lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise InvalidSetting(f"{name}: Input should be a valid {kind.__name__}, not {text!r}") from None


_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}
