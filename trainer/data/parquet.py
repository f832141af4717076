"""Parquet shards of FineWeb-EDU's shape: a column ``text`` with one document per row; other columns are not read.

    python -m trainer pretrain --data ./fineweb_edu            a folder of shards: the last one validates
    python -m trainer pretrain --data ./000_00000.parquet      one shard: some of its rows validate

Given: a .parquet file or a folder of them. Hands on: a Corpus; several shards are read as a stream (stream.py).
Never: loads a whole shard (it reads batch by batch, up to the limit), nor imports pyarrow unless parquet is asked for.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.corpus import Corpus, split
from trainer.errors import UserError

COLUMN = "text"
LANGUAGES_MAX = 50


def load(path: Path, bytes_max: int, val_fraction: float) -> Corpus:
    """Raises UserError: pyarrow missing, a corrupt or empty shard, no column of that name."""
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    name = path.resolve().stem or "parquet"
    if len(shards) == 1:
        train, val = split(documents(shards[0], bytes_max), val_fraction, str(path))
        return Corpus(name, train, val)
    val = documents(shards[-1], max(1, int(bytes_max * val_fraction)))
    train = []
    bytes_left = bytes_max
    for shard in shards[:-1]:
        if bytes_left <= 0:
            break
        read = documents(shard, bytes_left)
        bytes_left -= sum(map(len, read))
        train += read
    if not train or not val:
        raise UserError(
            f"{path} leaves the {'training' if not train else 'validation'} split empty", "add shards that hold text"
        )
    return Corpus(name, train, val)


def shards_of(path: str | None) -> list[Path]:
    """The shards of a folder that has several: enough to be read as a stream. Else none."""
    place = Path(path).expanduser() if path else None
    shards = sorted(place.glob("*.parquet")) if place is not None and place.is_dir() else []
    return shards if len(shards) > 1 else []


def row_groups(shard: Path) -> int:
    """How many there are. Raises UserError for a shard that cannot be read, or has no text."""
    with _opened(shard) as file:
        return file.metadata.num_row_groups


def text_bytes(shard: Path) -> int:
    """Size of all its texts, by the footer alone."""
    with _opened(shard) as file:
        meta, place = file.metadata, file.schema_arrow.names.index(COLUMN)
        return sum(meta.row_group(i).column(place).total_uncompressed_size for i in range(meta.num_row_groups))


def group_texts(shard: Path, group: int) -> list[bytes]:
    """The documents of one row group; rows without text are left out."""
    with _opened(shard) as file:
        texts = file.read_row_group(group, columns=[COLUMN]).column(0).to_pylist()
    return [text.encode("utf-8", errors="replace") for text in texts if text]


def quality(shard: Path) -> dict[str, float]:
    """data/* of the shard's first row group: languages and mean score, where it has such columns."""
    with _opened(shard) as file:
        names = [name for name in ("language", "score") if name in file.schema_arrow.names]
        if not names or not file.metadata.num_row_groups:
            return {}
        rows = file.read_row_group(0, columns=names).to_pydict()
    found: dict[str, float] = {}
    if scores := [score for score in rows.get("score", []) if score is not None]:
        found["data/avg_quality_score"] = sum(scores) / len(scores)
    languages = Counter(language for language in rows.get("language", []) if language)
    for language, count in languages.most_common(LANGUAGES_MAX):
        found[f"data/language_{language}"] = count
        found[f"data/language_{language}_percent"] = 100 * count / languages.total()
    return found


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """Every row with all its columns, one batch in memory at a time."""
    with _opened(file, needed=None) as opened:
        for batch in opened.iter_batches():
            yield from batch.to_pylist()


def documents(shard: Path, bytes_max: int) -> list[bytes]:
    """The first documents of a shard, up to so many bytes."""
    read, size = [], 0
    for text in _texts(shard):
        document = text.encode("utf-8", errors="replace")[: bytes_max - size]
        read.append(document)
        size += len(document)
        if size >= bytes_max:
            break
    return read


def _texts(shard: Path) -> Iterator[str]:
    """The shard's non-empty texts, in order, one row group in memory at a time."""
    with _opened(shard) as file:
        for batch in file.iter_batches(columns=[COLUMN]):
            yield from (text for text in batch.column(0).to_pylist() if text)


@contextmanager
def _opened(shard: Path, needed: str | None = COLUMN) -> Iterator[Any]:
    """The file, with whatever goes wrong while it is read as a UserError."""
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(shard) as file:
            if needed and needed not in file.schema_arrow.names:
                raise UserError(
                    f"{shard} has no column {needed!r} (it has {', '.join(file.schema_arrow.names)})",
                    "give --data parquet files of FineWeb-EDU's shape",
                )
            yield file
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
