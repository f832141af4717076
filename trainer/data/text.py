"""Plain text: the sources of this machine's Python standard library, or any folder of text files.

    python -m trainer pretrain                      the standard library: code, comments, docstrings
    python -m trainer pretrain --data ./my_texts    every UTF-8 file below that folder

Given: a folder. Hands on: a Corpus, one document per file, split by file.
Never: reads more than it was told to, or follows hidden folders.
"""

import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.data.corpus import Corpus, shuffled_by_name, split
from trainer.data.quality import Quality
from trainer.errors import UserError

NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "encodings"})
"""Installed packages differ from machine to machine; tests and character tables teach a language model little."""

LANGUAGES = {
    ".py": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".rs": "rust", ".go": "go", ".java": "java",
    ".js": "javascript", ".ts": "typescript", ".sh": "shell", ".sql": "sql", ".rb": "ruby", ".html": "html",
    ".md": "markdown", ".rst": "restructuredtext",
}  # fmt: skip
"""Of files by their ending; others do not say."""


def standard_library(bytes_max: int, val_fraction: float, quality: Quality) -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = _files(root, lambda name: name.endswith(".py"), NOT_THE_LIBRARY)
    return _read("python-stdlib", root, files, bytes_max, val_fraction, quality)


def load(path: Path, bytes_max: int, val_fraction: float, quality: Quality) -> Corpus:
    """Raises UserError if ``path`` is not a readable folder with at least two text files."""
    if not path.is_dir():
        raise UserError(f"{path} is neither a folder nor a .parquet file", "give --data the folder that holds the file")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"no permission to read {path}", "change its permissions, or give --data another folder")
    files = _files(path, lambda name: True, frozenset())
    return _read(path.resolve().name or "text", path, files, bytes_max, val_fraction, quality)


def _read(name: str, root: Path, files: Iterator[str], bytes_max: int, val_fraction: float, quality: Quality) -> Corpus:
    documents: list[bytes] = []
    bytes_read = skipped = 0
    for relative in shuffled_by_name(list(files)):
        if bytes_read >= bytes_max:
            break
        document = _text_of(root / relative, bytes_max - bytes_read)
        if document is None:
            skipped += 1
        elif document and quality.keep(document, LANGUAGES.get(Path(relative).suffix)):
            documents.append(document)
            bytes_read += len(document)
    train, val = split(documents, val_fraction, str(root))
    return Corpus(name, train, val, skipped)


def _files(root: Path, wanted: Callable[[str], bool], pruned: frozenset[str]) -> Iterator[str]:
    """Relative paths of the files below ``root``."""
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in pruned and not f.startswith(".")]
        for file in files:
            if wanted(file) and not file.startswith("."):
                yield os.path.relpath(os.path.join(folder, file), root)


def _text_of(path: Path, bytes_max: int) -> bytes | None:
    """The file's first ``bytes_max`` bytes, cut between characters; None if they are not UTF-8 text."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max)
    except OSError:
        return None
    text = data.decode("utf-8", errors="ignore").encode("utf-8")
    is_text = b"\0" not in data and len(data) - len(text) < 4
    return text if is_text else None
