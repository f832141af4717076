"""Why a program ends badly, for the runs that it leaves open. Python tells handlers of the exit of an exception that
ended the program, but not of ``sys.exit(3)``.

Given: calls of sys.exit, and where the runs were at each. Hands on: why the program fails, or None.
Never: changes what sys.exit does, or takes a SystemExit that somebody caught for the end of a training that went on.

A bare ``raise SystemExit(3)`` cannot be seen from inside; ``with sidecar.init(...):`` sees it.
"""

import sys
import threading
from collections.abc import Callable
from typing import NamedTuple, NoReturn


class _Call(NamedTuple):
    status: object
    progress: object


_last: _Call | None = None
_progress: Callable[[], object] | None = None
_exit = sys.exit


def watch(progress: Callable[[], object]) -> None:
    """Look at calls of sys.exit from now on. ``progress()`` changes when the training goes on."""
    global _exit, _progress
    if _progress is None:
        _progress = progress
        _exit, sys.exit = sys.exit, _noted_exit


def reason_to_fail() -> str | None:
    """Only while the program exits. None: it ends well."""
    if hasattr(sys, "ps1"):
        return None  # An interactive session: any earlier line or cell may have left its error behind.
    error = getattr(sys, "last_type", None)
    if error is not None:
        return str(error.__name__)
    if _last is None or _progress is None or _last.progress != _progress():
        return None
    code = exit_code_of(_last.status)
    return f"exit code {code}" if code else None


def exit_code_of(status: object) -> int:
    """As the interpreter takes it: nothing is 0, a number is itself, and anything else is printed and counts as 1."""
    return 0 if status is None else status if isinstance(status, int) else 1


def _noted_exit(status: object = None, /) -> NoReturn:
    global _last
    if _progress is not None and threading.current_thread() is threading.main_thread():  # Else only a thread ends.
        _last = _Call(status, _progress())
    _exit(status)  # type: ignore[arg-type]
