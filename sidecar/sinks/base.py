"""The plug for outlets: what a sink is given and what it must promise.

Given: nothing. Hands on: the Protocol and the small structs that cross it, and how an error reads in one line.
Never: loads a library, or knows which sinks exist (registry.py does).
"""

import errno
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from sidecar.rows import Row, RunInfo

FILE = "checkpoint/path"
"""Where a checkpoint lies, in a row of kind ``checkpoint``: for sinks that send files, see ``Sink.sends_files``."""


class SinkContext(msgspec.Struct, frozen=True, kw_only=True):
    """All that a sink is told about its surroundings."""

    sink: str
    """Its name in the table."""
    data_dir: str
    """The sidecar's data directory; a sink that writes files keeps them below it, unless told otherwise."""
    options: dict[str, Any] = {}
    """The sink's own options, e.g. {"entity": "team"} for wandb."""
    allow: list[str] = []
    """What may leave the machine beside numbers: text, histograms, artifacts, hosts, alerts."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A sink's status in its own words. The runner copies it into SinkHealth."""

    state: str = "ok"
    """ok | offline | disabled | failing. After ``disabled`` nothing more is delivered."""
    reason: str | None = None
    url: str | None = None
    acknowledged: int | None = None
    """Rows numbered below this are known to have arrived; those from it on may be missing. None: unknown."""


class Unavailable(RuntimeError):
    """The sink cannot work now; its text is the reason with the remedy, fit for one line of ``/status``.

    ``retry_after_seconds``: the far end asked not to be tried again before.
    """

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class SinkDied(Unavailable):
    """The sink is gone (its child died or was stopped for hanging) and must be opened again.

    ``by_itself``: it crashed; the rows it was given may be to blame. Otherwise it was stopped.
    """

    def __init__(self, reason: str, *, by_itself: bool = False) -> None:
        super().__init__(reason)
        self.by_itself = by_itself


class Sink(Protocol):
    """Receives one run's rows, in journal order, at its own pace.

    The runner calls from one thread, never concurrently: ``open``, then ``deliver`` any number of times, ``flush``
    when there is nothing more for now, ``close`` once. Any exception means "not delivered": the runner backs off
    and delivers the same rows again, so delivery must be idempotent for a repeated batch.

    Constructed with one ``SinkContext``. Subclass it to inherit the defaults, or just have the same methods.
    """

    isolated: ClassVar[bool] = False
    """Runs in a child process of its own: for libraries that hang, fork, or die."""
    leaves_machine: ClassVar[bool] = True
    """Its rows pass the privacy gate first. Only a sink that writes local files may say False."""
    per_node: ClassVar[bool] = False
    """Of a run on several nodes each one publishes, labelled by ``RunInfo.node``. Else only the node of rank 0 does,
    unless nothing leaves the machine."""
    sends_files: ClassVar[bool] = False
    """With ``--allow artifacts`` it gets the paths of checkpoints (``checkpoint/path``) and sends the files. Without it
    the path is None."""
    spelled: ClassVar[bool] = True
    """Gets the further metric names of `--names` as well."""
    one_rank: ClassVar[bool] = False
    """Draws one line per metric name: where several ranks log a name, it gets the lowest rank's values only."""
    one_row_per_step: ClassVar[bool] = False
    """A step's own values come in its ``derived`` row, once all ranks have reported the step (see steps.py)."""
    environment: ClassVar[tuple[str, ...]] = ()
    """Names (globs) of environment variables that its child may see beside the harmless ones."""

    def open(self, run: RunInfo) -> Report:
        """Called again, on the same object, when ``run`` has changed (more ranks, more configuration)."""
        return Report()

    def deliver(self, rows: Sequence[Row], number: int) -> None:
        """``number``: ordinal of rows[0] among all rows of the run; the same row always has the same number, so a
        sink that keeps it recognises a repeat. A row with no metrics was withheld by the privacy gate: skip it."""
        ...

    def flush(self) -> Report:
        """There is nothing more for now."""
        return self.report()

    def report(self) -> Report:
        """Its status now; does no work. Called after each delivery."""
        return Report()

    def close(self) -> None:
        return None


REMEDIES = {
    errno.ENOSPC: "make room there, rows wait in the journal",
    errno.EDQUOT: "make room within the quota, rows wait in the journal",
    errno.EACCES: "let this user write there, or name another folder",
    errno.EPERM: "let this user write there, or name another folder",
    errno.EROFS: "name a folder that can be written to",
    errno.EEXIST: "move the file away that stands where a folder belongs",
    errno.ENOTDIR: "move the file away that stands where a folder belongs",
    errno.ENOENT: "make the folder again, or name another",
    errno.EIO: "look at the disk (dmesg), rows wait in the journal",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "give the run a shorter id, or name a folder with a shorter path",
}
"""What to do about an error of the operating system."""
REASON_CHARS_MAX = 300


def reason_of(error: BaseException) -> str:
    """One line for ``/status``: what is wrong, and what to do where that is known."""
    text = " ".join(str(error).split())
    if isinstance(error, Unavailable) and text:
        return text[:REASON_CHARS_MAX]
    if isinstance(error, OSError) and error.errno in REMEDIES:
        place = f": {error.filename}" if error.filename else ""
        cause = " ".join(f"{error.strerror or text}{place}".split())
        remedy = REMEDIES[error.errno]
        return f"{cause[: REASON_CHARS_MAX - len(remedy) - 2]}; {remedy}"
    return f"{type(error).__name__}: {text}"[:REASON_CHARS_MAX]
