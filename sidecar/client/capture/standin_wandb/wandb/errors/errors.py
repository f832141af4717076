"""The exceptions, by wandb's names and bases."""

from typing import Any


class Error(Exception):
    def __init__(self, message: str, context: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.context = context or {}


class CommError(Error):
    def __init__(self, msg: str, exc: Exception | None = None) -> None:
        super().__init__(msg)
        self.exc = exc


class AuthenticationError(CommError):
    pass


class UsageError(Error):
    pass


class UnsupportedError(UsageError):
    pass


class WandbCoreNotAvailableError(Error):
    pass


class InvalidSetting(UsageError, ValueError):
    """Real wandb raises pydantic's ValidationError here, a ValueError."""
