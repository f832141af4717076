"""The one error that users see: what is wrong in one line, what to do about it in another.

Raised before training starts, or when it cannot go on; ``python -m trainer`` prints both lines and exits with 2.
"""


class UserError(Exception):
    """Something the user gave us cannot work. Never used for faults of our own: those keep their traceback."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


class UsageError(UserError):
    """A wrong command, flag or configuration file: under torchrun the same on every rank."""
