"""DIR/egress/RUN.json: what left for which sink since the run began, and what was withheld.

Given: a data directory, gates. Hands on: the manifests on disk.
Never: forgets what an earlier process, or another sink of the same run, has written there.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from sidecar.atomic_file import write_atomic
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import Gate, Manifest

log = logging.getLogger(__name__)


class Manifests:
    """Those of one sidecar, written when they have changed."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._written: dict[str, list[Manifest]] = {}

    def write(self, gates: Mapping[tuple[str, str], Gate]) -> set[str]:
        """``gates``: by run and sink. Returns the runs whose manifest could not be written now."""
        failed = set()
        by_run: dict[str, list[Gate]] = {}
        for (run_id, _), gate in list(gates.items()):
            by_run.setdefault(run_id, []).append(gate)
        for run_id, own in by_run.items():
            try:
                manifests = [gate.manifest() for gate in own]
                if manifests != self._written.get(run_id):
                    write(self._data_dir, run_id, manifests)
                    self._written[run_id] = manifests
            except (OSError, RuntimeError) as error:  # RuntimeError: the gate grew while we copied; next time.
                log.debug("the egress manifest of %s is not written: %s", run_id, error)
                failed.add(run_id)
        return failed

    def forget(self, run_id: str) -> None:
        """What was written stays on the disk; a gate that is made again goes on from there."""
        self._written.pop(run_id, None)


def read(data_dir: Path, run_id: str) -> list[Manifest]:
    """One for each sink, by name; none when there is no file or it is damaged."""
    try:
        return msgspec.json.decode(_path(data_dir, run_id).read_bytes(), type=list[Manifest])
    except (OSError, msgspec.DecodeError):
        return []


def write(data_dir: Path, run_id: str, manifests: Iterable[Manifest]) -> None:
    """Those of other sinks stay. Raises OSError."""
    by_sink = {manifest.sink: manifest for manifest in [*read(data_dir, run_id), *manifests]}
    path = _path(data_dir, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode([by_sink[sink] for sink in sorted(by_sink)])))


def of_sink(data_dir: Path, run_id: str, sink: str) -> Manifest | None:
    return next((manifest for manifest in read(data_dir, run_id) if manifest.sink == sink), None)


def _path(data_dir: Path, run_id: str) -> Path:
    return data_dir / "egress" / f"{file_stem(run_id)}.json"
