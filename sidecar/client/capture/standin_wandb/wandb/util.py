"""The helpers of wandb.util that scripts use."""

import importlib
import re
from typing import Any

from sidecar.client.capture.plain import plain

from .errors import Error
from .sdk.lib.runid import generate_id
from .sdk.wandb_config import friendly as json_friendly_val


def get_module(name: str, required: Any = None, lazy: bool = True) -> Any:
    """The module, None when it is not there. Raises Error with the text ``required`` instead."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if required:
            raise Error(required if isinstance(required, str) else f"{name} is required: {error}") from error
        return None


def make_artifact_name_safe(name: str) -> str:
    cleaned = re.sub(r"[^a-zA-Z0-9_\-.]", "_", name)
    return cleaned if len(cleaned) <= 128 else cleaned[:63] + ".." + cleaned[-63:]


def json_friendly(obj: Any, **_: Any) -> tuple[Any, bool]:
    try:
        return plain(obj), True
    except TypeError:
        return obj, False


__all__ = ("generate_id", "get_module", "json_friendly", "json_friendly_val", "make_artifact_name_safe")
