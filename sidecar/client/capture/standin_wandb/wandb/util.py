"""The helpers of wandb.util that scripts use."""

import re
from typing import Any

from sidecar.client.capture.plain import plain

from .sdk.lib.runid import generate_id
from .sdk.wandb_config import friendly as json_friendly_val


def make_artifact_name_safe(name: str) -> str:
    cleaned = re.sub(r"[^a-zA-Z0-9_\-.]", "_", name)
    return cleaned if len(cleaned) <= 128 else cleaned[:63] + ".." + cleaned[-63:]


def json_friendly(obj: Any, **_: Any) -> tuple[Any, bool]:
    try:
        return plain(obj), True
    except TypeError:
        return obj, False


__all__ = ("generate_id", "json_friendly", "json_friendly_val", "make_artifact_name_safe")
