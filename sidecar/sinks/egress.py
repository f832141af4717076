"""DIR/egress/RUN.json: what left for which sink over all lives of the sidecar, and what was withheld.

Given: a data directory, gates. Hands on: the manifests on disk.
Never: forgets what an earlier process, or another sink of the same run, has written there.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from sidecar.atomic_file import write_atomic
from sidecar.sinks.deadletters import file_stem
from sidecar.sinks.privacy import Manifest


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
