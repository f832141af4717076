"""``sidecar run`` in a terminal of its own (a pseudo-terminal): Ctrl-C, and what is drawn."""

import io
import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest

from sidecar.launch import to_stderr

LAUNCHER = Path(__file__).with_name("launch_with_fake.py")
ROOT = Path(__file__).resolve().parents[2]

COUNT_INTERRUPTS = """
import pathlib, signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(time.monotonic()))
print("ready", flush=True)
while not seen: time.sleep(0.01)
time.sleep(0.5)   # Room for a second delivery of the same key.
print("interrupts", len(seen), flush=True)
sys.exit(9)
"""


class Terminal:
    """A command that believes it was started by hand."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.text = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environ)

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def read_until(self, wanted: str, timeout_seconds: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            self._read()

    def exit_code(self, timeout_seconds: float = 60.0) -> int:
        deadline = time.monotonic() + timeout_seconds
        while self._read():
            assert time.monotonic() < deadline, self.text
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: every holder of the other end has closed it.
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_interrupt_key_reaches_the_command_once_and_its_exit_code_comes_back(tmp_path: Path) -> None:
    environ = os.environ | {"SIDECAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, str(LAUNCHER), "run", "--", sys.executable, "-c", COUNT_INTERRUPTS]
    terminal = Terminal(command, dict(environ))
    terminal.read_until("ready")
    terminal.type(b"\x03")
    terminal.read_until("interrupts")
    assert terminal.exit_code() == 9
    assert "interrupts 1\r\n" in terminal.text
    assert (tmp_path / "stopped").exists()


def test_a_line_on_a_terminal_takes_the_place_of_the_commands_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, expected in ((True, "\r\x1b[Kstep 5\n"), (False, "step 5\n")):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        to_stderr("step 5", over_bar=True)
        assert stream.getvalue() == expected


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_top_redraws_in_place_and_gives_the_cursor_back(tmp_path: Path) -> None:
    environ = os.environ | {"SIDECAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm", "FAKE_RUN_ID": "r1"}
    keeper = [sys.executable, str(LAUNCHER), "run", "--", sys.executable, "-c", "print('up', flush=True); input()"]
    first = Terminal(keeper, dict(environ))
    first.read_until("up")
    top = Terminal([sys.executable, "-m", "sidecar", "top", "--every", "0.1"], dict(environ))
    top.read_until("20/20")
    top.type(b"\x03")
    assert top.exit_code() == 130
    assert top.text.rstrip().endswith("\x1b[?25h")
    first.type(b"\n")
    assert first.exit_code() == 0
