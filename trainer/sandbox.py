"""Run a program that a model wrote, in a process of its own that may do little and not for long.

Given: source code. Hands on: whether it ended well.
Never: runs it in this process, with this environment, in this folder, or for more than a few seconds. This keeps
accidents in, not attackers: for models you do not trust, run the whole evaluation in a container.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile

SECONDS = 5
LIMITS = {
    resource.RLIMIT_CPU: SECONDS,
    resource.RLIMIT_AS: 512 * 2**20,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 32,
}


def passes(source: str) -> bool:
    """True if the program ends with code 0 within the time."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-"], cwd=folder, env={}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            for kind, most in LIMITS.items():  # Python still waits for the program.
                resource.prlimit(process.pid, kind, (most, most))
            process.communicate(source.encode("utf-8", "replace"), timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):  # Its own children must not outlive it.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode == 0
