"""Types of paths, by wandb's names."""

import os
from pathlib import PurePosixPath

StrPath = str | os.PathLike[str]
FilePathStr = URIStr = str


class LogicalPath(str):
    def to_path(self) -> PurePosixPath:
        return PurePosixPath(self)
