"""Where text comes from: the standard library or a folder (text.py), or parquet (parquet.py); windows.py cuts batches.

``load`` is the one door: it decides by the path, and gives documents already split into training and validation.
"""

from pathlib import Path

from trainer.data.corpus import Corpus
from trainer.errors import UserError


def load(path: str | None, *, bytes_max: int, val_fraction: float) -> Corpus:
    """Documents of the standard library (no path), of a folder of text, or of parquet. Raises UserError."""
    from trainer.data import parquet, text

    if path is None:
        return text.standard_library(bytes_max, val_fraction)
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"no such file or folder: {path}", "give --data a folder of text or a parquet, or leave it out")
    if place.suffix == ".parquet" or (place.is_dir() and any(place.glob("*.parquet"))):
        return parquet.load(place, bytes_max, val_fraction)
    return text.load(place, bytes_max, val_fraction)
