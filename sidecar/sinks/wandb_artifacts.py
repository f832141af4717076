"""Checkpoint files to W&B as artifacts, when their owner allowed it: `--allow artifacts`.

Given: a wandb run, files by the path that the trainer named. Hands on: one version of the artifact
``checkpoint-RUN`` for each, of type model, with the aliases ``latest`` and ``step-N``.
Never: keeps rows waiting for an upload (it has a thread of its own), forgets a file that a killed child had not sent
(what waits is on disk), or tells W&B where on this machine the file lay.

The file itself goes, not a reference to it: whoever allows artifacts wants them there, a ``file://`` reference would
send a path that nobody else can open, and references to object stores need each store's own library and key.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from sidecar.atomic_file import write_atomic
from sidecar.sinks.deadletters import file_stem

WAITING_MAX = 64
RETRY_SECONDS = 30.0
CLOSE_SECONDS = 6.0
"""How long closing waits for an upload; what is left is sent by the next process."""
UPLOADS = "uploads"
"""Links to the files, in the child's own folder: W&B is told this relative name, not the path."""


class File(msgspec.Struct, frozen=True):
    number: int
    """Of the row that named it."""
    path: str
    name: str
    step: int | None = None


class Gone(Exception):
    """The file cannot be sent, now or later."""


def waiting(folder: Path, run: str) -> list[File]:
    """Files of this run that were not sent yet. ``folder``: the data directory; ``run``: its W&B id."""
    try:
        return msgspec.json.decode(_list(folder, run).read_bytes(), type=list[File])
    except (OSError, msgspec.DecodeError):
        return []


def _list(folder: Path, run: str) -> Path:
    return folder / "sinks" / f"{file_stem(run)}.wandb-files.json"


class Outbox:
    """``add`` from the sink's thread; everything else happens on its own."""

    def __init__(self, folder: Path, run_id: str, send: Callable[[File, threading.Event], None]) -> None:
        self.note: str | None = None
        """What people should know, one line."""
        self._path, self._send = _list(folder, run_id), send
        self._files = waiting(folder, run_id)
        self._lock, self._stop, self._wake = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if self._files:
            self._start()

    @property
    def waiting(self) -> int:
        return len(self._files)

    def add(self, file: File) -> None:
        with self._lock:
            if any(known.number == file.number for known in self._files):
                return
            if len(self._files) >= WAITING_MAX:
                self.note = f"{file.name} is not sent: {WAITING_MAX} files wait already"
                return
            self._files.append(file)
            self._save()
        self._start()
        self._wake.set()

    def close(self) -> None:
        """Give what is being sent a moment."""
        if self._thread is None:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._files and time.monotonic() < deadline:
            time.sleep(0.05)
        self._stop.set()
        self._wake.set()
        self._thread.join(2.0)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wandb-files", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        rest = 0.0
        while True:
            self._wake.clear()
            file = next(iter(self._files), None)
            if file is None and self._stop.is_set():
                return
            if file is None:
                self._wake.wait()
                continue
            if rest and self._stop.wait(rest):
                return
            rest = self._try(file)

    def _try(self, file: File) -> float:
        """Seconds to wait before the next attempt."""
        try:
            self._send(file, self._stop)
            self.note = None
        except Gone as error:
            self.note = f"{file.name} was not sent: {error}"
        except Exception as error:  # noqa: BLE001 - wandb raises many kinds; metrics must go on.
            text = " ".join(str(error).split())[:120]
            self.note = f"{file.name} is not sent yet ({type(error).__name__}: {text}); trying again"
            return RETRY_SECONDS
        with self._lock:
            self._files.remove(file)
            self._save()
        return 0.0

    def _save(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._path, msgspec.json.encode(self._files))
        except OSError as error:
            self.note = f"the list of files to send cannot be written ({error.strerror}); free some space"


def send(run: Any, file: File, stop: threading.Event, *, online: bool) -> None:
    """Online: returns when W&B has it. Raises Gone, TimeoutError (stopped before it was there), wandb's own errors."""
    import wandb

    link = _link(file)
    try:
        artifact = wandb.Artifact(f"checkpoint-{run.id}", "model", metadata={"step": file.step})
        for path, name in _parts(link, file.name):
            artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
        aliases = ["latest"] if file.step is None else ["latest", f"step-{file.step}"]
        logged = run.log_artifact(artifact, aliases=aliases)
        while online:
            try:
                logged.wait(timeout=1)
                return
            except Exception as error:  # noqa: BLE001 - wandb has moved this class between its versions.
                if type(error).__name__ != "WaitTimeoutError":
                    raise
                if stop.is_set():
                    raise TimeoutError("stopped while it was sent") from None
    finally:
        os.unlink(link)


def _link(file: File) -> str:
    """A relative name under which the file can be read from here. Raises Gone."""
    if "://" in file.path:
        raise Gone("it is no file of this machine")
    if not os.path.exists(file.path):
        raise Gone("it is gone, or on another machine")
    os.makedirs(UPLOADS, mode=0o700, exist_ok=True)
    link = os.path.join(UPLOADS, f"{os.getpid()}-{file.number}")
    os.symlink(os.path.abspath(file.path), link)
    return link


def _parts(link: str, name: str) -> Iterator[tuple[str, str]]:
    """(path, name in the artifact) of a file, or of every file in a folder."""
    if not os.path.isdir(link):
        yield link, name
        return
    for folder, _, names in os.walk(link):
        for each in sorted(names):
            path = os.path.join(folder, each)
            yield path, os.path.relpath(path, link)
