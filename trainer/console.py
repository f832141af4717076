"""What a person sees during training: plain lines, from the main rank only.

    Epoch:[1/1](10/300) loss:5.516532 lr:0.000666666667 grad_norm:3.0159 tokens/s:13292 MFU:38.20% epoch_Time:0.0min
        ETA:0.74min
    Step: 100/300 loss 2.91
    Step 75: val_loss=2.9120, val_ppl=18.39

Given: numbers; None, the unknown, prints as "-". On a terminal the last line is a progress bar.
Never: writes control characters to anything but a terminal, or ends training because its output is or was closed.
"""

import contextlib
import io
import os
import shutil
import sys
import time
from typing import Self, TextIO

from trainer.config import Config

SILENT, QUIET, NORMAL, VERBOSE = -1, 0, 1, 2
BAR, REDRAW_SECONDS = 40, 0.2


class Console:
    def __init__(self, *, is_main: bool = True, level: int = NORMAL, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.level = level if is_main and self._stream else SILENT  # No stream: started with >&-.
        self._drawn, self._bar = 0.0, ""
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")  # A model may write what the terminal cannot show.

    @classmethod
    def of(cls, config: Config, *, is_main: bool, stream: TextIO | None = None) -> Self:
        """At the level that -q and -v ask for."""
        level = QUIET if config.quiet else VERBOSE if config.verbose else NORMAL
        return cls(is_main=is_main, level=level, stream=stream)

    def say(self, text: str, level: int = NORMAL) -> None:
        """Print one line, unless the console is at a lower level."""
        if self.level >= level:
            self.wipe()
            self._write(text + "\n")

    def progress(self, step: int, total_steps: int) -> None:
        """A bar that is redrawn in place, on a terminal only; the next line takes its place."""
        if self.level < NORMAL or not self._stream.isatty() or (now := time.monotonic()) < self._drawn + REDRAW_SECONDS:
            return
        self._drawn, self._bar = now, progress_bar(step, total_steps, shutil.get_terminal_size().columns)
        self._write(f"\r{self._bar}")

    def wipe(self) -> None:
        """Erase the bar, if there is one."""
        if self._bar:
            self._write(f"\r{' ' * len(self._bar)}\r")
            self._bar = ""

    def _write(self, text: str) -> None:
        """The reader may be gone (``| head``, a closed terminal): no reason to end hours of training."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self.level = SILENT
            with contextlib.suppress(OSError, ValueError):  # Else the interpreter fails to flush it at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def train(
        self, *, epoch: int, epochs: int, step: int, iters: int, loss: float | None, lr: float, grad_norm: float | None,
        tokens_per_second: float | None, mfu: float | None, epoch_seconds: float | None, eta_seconds: float | None,
    ) -> None:  # fmt: skip
        """``mfu`` is a ratio; ``step`` of ``iters`` counts within the epoch."""
        self.say(
            f"Epoch:[{epoch}/{epochs}]({step}/{iters}) loss:{_number(loss, '.6f')} lr:{lr:.12f} "
            f"grad_norm:{_number(grad_norm, '.4f')} tokens/s:{_number(tokens_per_second, '.0f')} "
            f"MFU:{_number(mfu and 100 * mfu, '.2f')}% epoch_Time:{_number(_minutes(epoch_seconds), '.1f')}min "
            f"ETA:{_number(_minutes(eta_seconds), '.2f')}min"
        )

    def mean_loss(self, step: int, total_steps: int, loss: float) -> None:
        """The mean loss of the last LOG_FREQ steps."""
        self.say(f"Step: {step}/{total_steps} loss {loss:.3}")

    def validation(self, step: int, numbers: dict[str, float]) -> None:
        """Loss and perplexity; accuracies and DPO's rewards where a stage has those."""
        if "val/loss" in numbers or not numbers:
            loss, perplexity = numbers.get("val/loss"), numbers.get("val/perplexity")
            self.say(f"Step {step}: val_loss={_number(loss, '.4f')}, val_ppl={_number(perplexity, '.2f')}")
        if shown := [f"{n}={v:.3f}" for n, v in numbers.items() if n.endswith("_acc") or n.startswith("val/rewards")]:
            self.say(f"Step {step}: {', '.join(shown)}")

    def samples(self, texts: dict[str, str]) -> None:
        for text in texts.values():
            self.say(f"  sample: {printable(text)}")


def progress_bar(step: int, total_steps: int, columns: int) -> str:
    """At most ``columns`` wide: a longer line would wrap, and could not be redrawn in place."""
    count = f" {step}/{total_steps}"
    width = max(0, min(BAR, columns - len(count) - 3))  # The last column stays free: some terminals wrap there.
    done = width * step // total_steps
    return f"[{'#' * done}{'.' * (width - done)}]{count}" if width else count.strip()


def printable(text: str) -> str:
    """Model output on one line, without control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60
