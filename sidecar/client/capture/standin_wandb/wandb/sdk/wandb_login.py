"""Nobody has to log in."""

from typing import Any


def login(
    key: str | None = None,
    relogin: bool | None = None,
    host: str | None = None,
    force: bool | None = None,
    timeout: int | None = None,
    verify: bool = True,
    referrer: str | None = None,
    prompt: bool = True,
    **_: Any,
) -> bool:
    """True, as with valid credentials. The key is not read, kept or sent."""
    return True
