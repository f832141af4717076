"""What a person did wrong or must know, as a cause and a remedy; and the exit codes that tell scripts the same.

Given: a sentence each. Hands on: an exception the command line prints as a few short lines.
Never: carries a traceback to the user, or a secret.
"""

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every ``sidecar`` command; ``run`` returns its command's own code once that has started."""

    OK = 0
    WARNINGS = 1
    """``doctor``: works, with warnings."""
    ERRORS = 2
    """``doctor``: something is broken."""
    USAGE = 2
    """Unknown option, bad value, bad configuration file."""
    NO_DATA = 3
    """No run, no such run, or no sidecar to ask."""
    FAILED = 70
    """The sidecar could not start, or stopped by itself, for a reason of its own."""
    PORT = 71
    """No port could be bound."""
    NO_START = 72
    """The sidecar did not get ready in time."""
    NOT_WRITABLE = 73
    """The data or runtime directory cannot be written."""
    BUSY = 74
    """Another sidecar owns the data directory or the endpoint."""
    MISSING = 75
    """A package that this command needs is not installed."""
    NOT_EXECUTABLE = 76
    """The command after ``--`` exists but cannot be executed."""
    NOT_FOUND = 77
    """The command after ``--`` does not exist."""


class UserError(Exception):
    """Something its reader can put right: one line of cause, one line of remedy, a documented exit code.

    ``checks``: where the cause can only be guessed at, what else to look at, a line each.
    """

    def __init__(
        self, cause: str, remedy: str = "", exit_code: int = Exit.USAGE, *, checks: Sequence[str] = ()
    ) -> None:
        super().__init__(cause)
        self.cause = one_line(cause)
        self.remedy = one_line(remedy)
        self.exit_code = int(exit_code)
        self.checks = tuple(map(one_line, checks))

    def __str__(self) -> str:
        """What a terminal shows: the cause, the remedy if there is one, and the checks."""
        lines = [f"error: {self.cause}"]
        if self.remedy:
            lines.append(f"fix: {self.remedy}")
        lines += [f"check: {text}" for text in self.checks]
        return "\n".join(lines)


def one_line(text: str) -> str:
    """``text`` with every run of white space made one blank, and control characters made visible."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in joined)
