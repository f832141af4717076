"""ConfigError, and configuration files."""

import os
from typing import Any

from ...errors import Error


class ConfigError(Error):
    pass


def dict_from_config_file(filename: str, must_exist: bool = False) -> dict[str, Any] | None:
    """The values of a wandb YAML file: ``{key: {"value": ...}}``. Raises ConfigError."""
    if not os.path.exists(filename):
        if must_exist:
            raise ConfigError(f"config file {filename} doesn't exist")
        return None
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        if must_exist:
            raise ConfigError(f"cannot read {filename}: PyYAML is not installed") from None
        return None
    try:
        with open(filename) as file:
            loaded = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"Couldn't read config file: {filename}") from error
    except yaml.YAMLError as error:
        raise ConfigError("Invalid YAML in config yaml") from error
    if loaded is None:
        return None
    if loaded.pop("wandb_version", 1) != 1:
        raise ConfigError("Unknown config version")
    return {key: item["value"] for key, item in loaded.items()}


def merge_dicts(dest: dict[str, Any], src: dict[str, Any]) -> dict[str, Any]:
    for key, value in src.items():
        if isinstance(value, dict) and isinstance(dest.get(key), dict):
            merge_dicts(dest[key], value)
        else:
            dest[key] = value
    return dest
