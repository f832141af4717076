"""Parquet shards of FineWeb-EDU's shape: a column ``text`` with one document per row; other columns are not read.

    python -m trainer pretrain --data ./fineweb_edu            a folder of shards: the last one validates
    python -m trainer pretrain --data ./000_00000.parquet      one shard: some of its rows validate

Given: a .parquet file or a folder of them. Hands on: a Corpus.
Never: loads a whole shard (it reads batch by batch, up to the limit), nor imports pyarrow unless parquet is asked for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.corpus import Corpus, split
from trainer.errors import UserError

COLUMN = "text"


def load(path: Path, bytes_max: int, val_fraction: float) -> Corpus:
    """Raises UserError: pyarrow missing, a corrupt or empty shard, no column of that name."""
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    name = path.resolve().stem or "parquet"
    if len(shards) == 1:
        train, val = split(_documents(shards[0], bytes_max), val_fraction, str(path))
        return Corpus(name, train, val)
    val = _documents(shards[-1], max(1, int(bytes_max * val_fraction)))
    train = []
    bytes_left = bytes_max
    for shard in shards[:-1]:
        if bytes_left <= 0:
            break
        documents = _documents(shard, bytes_left)
        bytes_left -= sum(map(len, documents))
        train += documents
    if not train or not val:
        raise UserError(
            f"{path} leaves the {'training' if not train else 'validation'} split empty", "add shards that hold text"
        )
    return Corpus(name, train, val)


def _documents(shard: Path, bytes_max: int) -> list[bytes]:
    documents, size = [], 0
    for text in _texts(shard):
        document = text.encode("utf-8", errors="replace")[: bytes_max - size]
        documents.append(document)
        size += len(document)
        if size >= bytes_max:
            break
    return documents


def _texts(shard: Path) -> Iterator[str]:
    """The shard's non-empty texts, in order, one row group in memory at a time."""
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(shard) as file:
            if COLUMN not in file.schema_arrow.names:
                raise UserError(
                    f"{shard} has no column {COLUMN!r} (it has {', '.join(file.schema_arrow.names)})",
                    "give --data parquet files of FineWeb-EDU's shape",
                )
            for batch in file.iter_batches(columns=[COLUMN]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot read {shard}: {reason}", "fetch the file again, or remove it from the folder"
        ) from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow, which is not installed", "pip install pyarrow") from error
    return pyarrow, pyarrow.parquet
