"""Plain text: the sources of this machine's Python standard library, any folder of text files, or one such file.

    python -m trainer pretrain                      the standard library: code, comments, docstrings
    python -m trainer pretrain --data ./my_texts    every UTF-8 file below that folder
    python -m trainer pretrain --data input.txt     one file, whose end validates

Given: a folder, or a file. Hands on: documents, one per file.
Never: reads more than it was told to, or hidden folders.
"""

import os
import sysconfig
from pathlib import Path

from trainer.data.corpus import files_below, shuffled_by_name
from trainer.data.quality import DataReport
from trainer.errors import UserError

NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "encodings"})
"""Installed packages differ from machine to machine; tests and character tables teach a language model little."""

LANGUAGES = {
    ".py": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".rs": "rust", ".go": "go", ".java": "java",
    ".js": "javascript", ".ts": "typescript", ".sh": "shell", ".sql": "sql", ".rb": "ruby", ".html": "html",
    ".md": "markdown", ".rst": "restructuredtext",
}  # fmt: skip
"""By the ending of a file, for data/language_*."""


def standard_library(bytes_max: int, report: DataReport) -> list[bytes]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in files_below(root, skipped=NOT_THE_LIBRARY) if file.suffix == ".py"]
    return _texts_of(root, files, bytes_max, report)


def documents(path: Path, bytes_max: int, report: DataReport) -> list[bytes]:
    """Raises UserError if ``path`` is neither a text file nor a readable folder of them."""
    if not path.is_dir():
        return [_only_text_of(path, bytes_max, report)]
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"no permission to read {path}", "change its permissions, or give --data another folder")
    return _texts_of(path, files_below(path), bytes_max, report)


def _only_text_of(path: Path, bytes_max: int, report: DataReport) -> bytes:
    text = _text_of(path, bytes_max)
    if text is None:
        raise UserError(f"{path} is not UTF-8 text, nor a .parquet file", "give --data one of these, or a folder")
    if not report.quality.keep(text, LANGUAGES.get(path.suffix)):
        raise UserError(f"{path} has text that must not be trained on", "give --data another file, or --no-screen")
    return text


def _texts_of(root: Path, files: list[Path], bytes_max: int, report: DataReport) -> list[bytes]:
    """Those that may be trained on, in the order of ``shuffled_by_name``, until there are ``bytes_max`` of them."""
    found: list[bytes] = []
    left = bytes_max
    for relative in shuffled_by_name([str(file.relative_to(root)) for file in files]):
        if left <= 0:
            break
        text = _text_of(root / relative, left)
        if text is None:
            report.add(relative, "not UTF-8 text, or not to be read")
        elif text and report.quality.keep(text, LANGUAGES.get(Path(relative).suffix)):
            found.append(text)
            left -= len(text)
    return found


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
