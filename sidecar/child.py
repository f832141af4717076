"""The training command as a child process in our foreground group, and the signals that belong to it.

Given: argv and an environment. Hands on: news of the child (``Ended``, or None for a pause), one at a time.
Never: swallows a signal, sends one twice that the terminal already delivered, or hides how the child ended.

The signals are taken by sigtimedwait, not by handlers, because only that tells who sent one: Ctrl-C comes from the
kernel and reached the whole foreground group, the child included; a ``kill`` from a process reached us alone.
"""

import os
import shutil
import signal
import subprocess
import sys

from sidecar.errors import Exit, UserError

FORWARDED = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)
"""SIGUSR1 and SIGUSR2 too: batch systems announce the end of a job with them."""


class Child:
    """Starts the command at once. Raises UserError when it does not exist or cannot be executed."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.signals: list[int] = []
        """Signals seen so far, ours and the terminal's, in order."""
        self._waited = FORWARDED | {signal.SIGCHLD}
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited)
        try:
            # The child must not inherit the blocked mask. One thread at this point, so preexec_fn is safe.
            self._process = subprocess.Popen(command, env=environ, preexec_fn=self._restore_mask)
        except OSError as error:
            self._restore_mask()
            reason = error.strerror or str(error)
            remedy = "check its permissions and first line"
            raise UserError(f"{command[0]} cannot be executed: {reason}", remedy, Exit.NOT_EXECUTABLE) from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_seconds: float) -> int | None:
        """Until the child ends, a signal came, or the time is over. The exit code once it has ended, else None."""
        if self._process.poll() is None:
            self._take(timeout_seconds)
        code = self._process.poll()
        return None if code is None else exit_code_of(code)

    def pause(self, timeout_seconds: float) -> bool:
        """After the child ended: wait, and say whether a signal asked us to hurry."""
        before = len(self.signals)
        self._take(timeout_seconds)
        return len(self.signals) > before

    def release(self) -> None:
        self._restore_mask()

    def _take(self, timeout_seconds: float) -> None:
        news = signal.sigtimedwait(self._waited, max(timeout_seconds, 0.0))
        if news is None or news.si_signo == signal.SIGCHLD:
            return
        self.signals.append(news.si_signo)
        from_terminal = news.si_code > 0  # SI_KERNEL; what processes send has a code of zero or below.
        if not from_terminal and self._process.poll() is None:
            self._process.send_signal(news.si_signo)

    def _restore_mask(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)


def exit_code_of(returncode: int) -> int:
    """subprocess' return code as a shell would report it: 128 + n after signal n."""
    return returncode if returncode >= 0 else 128 - returncode


def resolve(command: list[str], environ: dict[str, str]) -> dict[str, str]:
    """Check that the command exists; the environment to start it with. Raises UserError.

    When the command is not on PATH but lies beside our own interpreter (``python``, ``torchrun`` of a virtual
    environment nobody activated), that directory is put first on the child's PATH.
    """
    if not command:
        raise UserError("no training command was given", "write it after two dashes: sidecar run -- python train.py")
    path = environ.get("PATH", os.defpath)
    if shutil.which(command[0], path=path):
        return environ
    beside = os.path.dirname(sys.executable)
    if os.sep not in command[0] and shutil.which(command[0], path=beside):
        return environ | {"PATH": beside + os.pathsep + path}
    if os.path.isdir(command[0]) and os.sep in command[0]:
        raise UserError(f"{command[0]} is a directory", "name the program or script in it", Exit.NOT_EXECUTABLE)
    if os.path.exists(command[0]) and os.sep in command[0]:
        remedy = f"chmod +x {command[0]}, or start it with its interpreter: -- python {command[0]}"
        raise UserError(f"{command[0]} is not executable", remedy, Exit.NOT_EXECUTABLE)
    raise UserError(f"command not found: {command[0]}", "check the name, or give its full path", Exit.NOT_FOUND)
