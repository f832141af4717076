"""Artifacts: a script may fill and log one; its files stay where they are."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from enum import Enum
from typing import Any

from ...errors import CommError


class ArtifactTTL(Enum):
    INHERIT = 0


class Artifact:
    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        incremental: bool = False,
        use_as: str | None = None,
        storage_region: str | None = None,
    ) -> None:
        self.name, self.type, self.description = name, type, description
        self.metadata = dict(metadata or {})
        self.aliases: list[str] = []
        self.tags: list[str] = []
        self.version, self.state, self.id, self.ttl = "v0", "PENDING", None, None
        self.size = 0
        self._names: list[str] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def qualified_name(self) -> str:
        return f"{self.name}:{self.version}"

    source_name = qualified_name

    @contextlib.contextmanager
    def new_file(self, name: str, mode: str = "x", encoding: str | None = None) -> Iterator[Any]:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="captured-artifact-")
        path = os.path.join(self._temporary.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, mode.replace("x", "w"), encoding=encoding) as file:
            yield file
        self._names.append(name)

    def add_file(self, local_path: Any, name: str | None = None, **_: Any) -> None:
        """Raises ValueError when there is no such file."""
        if not os.path.isfile(local_path):
            raise ValueError(f"Path is not a file: {local_path!r}")
        self._names.append(name or os.path.basename(local_path))

    def add_dir(self, local_path: Any, name: str | None = None, **_: Any) -> None:
        """Raises ValueError when there is no such folder."""
        if not os.path.isdir(local_path):
            raise ValueError(f"Path is not a directory: {str(local_path)!r}")
        self._names.append(name or os.path.basename(local_path))

    def add_reference(self, uri: Any, name: str | None = None, **_: Any) -> list[Any]:
        self._names.append(name or str(uri))
        return []

    def add(self, obj: Any, name: str, overwrite: bool = False) -> None:
        self._names.append(name)

    def remove(self, item: Any) -> None:
        self._names = [name for name in self._names if name != str(item)]

    def wait(self, timeout: int | None = None) -> "Artifact":
        return self

    def save(self, project: str | None = None, settings: Any = None) -> None:
        pass

    link = finalize = save

    def is_draft(self) -> bool:
        return True

    def files(self, names: Any = None, per_page: int = 50) -> list[Any]:
        return []

    def download(self, *args: Any, **kwargs: Any) -> str:
        raise CommError(f"artifact {self.name!r} was not kept: there is nothing to download")

    get = get_path = get_entry = file = checkout = download
