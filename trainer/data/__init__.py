"""Text for pretraining: the standard library, a folder or a file (text.py), parquet (parquet.py, stream.py) or the hub
(hub.py).

``locate`` finds the files that --data names and fetches them if they are on the hub; ``load`` reads the documents,
already split into training and validation. Several parquet shards are read as a stream, all but the last.
"""

from pathlib import Path
from typing import NamedTuple

from trainer.data import hub
from trainer.data.corpus import Corpus, files_below, split_documents, text_folder
from trainer.data.quality import DataReport, Quality
from trainer.errors import UserError

FINEWEB = f"{hub.SCHEME}karpathy/fineweb-edu-100b-shuffle/*.parquet"
FINEWEB_NAME = "FineWeb-EDU"
"""What ``--data hub`` means for pretraining; shards of 100 MB each; --hub_files says how many of them."""


class Location(NamedTuple):
    path: Path | None = None
    """A file or folder of text on this machine, or the folder of ``shards``; None for the standard library."""
    name: str | None = None  # As the sidecar shows it; None: that of the folder.
    shards: tuple[Path, ...] = ()  # Parquet files. Several are read as a stream, all but the last, which validates.
    remarks: tuple[str, ...] = ()


def locate(path: str | None, *, files_max: int | None = None, without_hub: str = "refuse") -> Location:
    """Raises UserError: no such file or folder; or the hub does not answer, and ``without_hub`` is not "builtin"."""
    if not path:  # Empty: a variable of the user's shell that is not set.
        return Location()
    if path == "hub" or hub.is_address(path):
        try:
            return _from_hub(path, files_max)
        except hub.Unreachable as error:
            if without_hub != "builtin":
                raise
            return Location(remarks=(f"{error.cause}: the standard library instead",))
    place = Path(path)
    if not place.exists():
        raise UserError(f"no such file or folder: {path}", "give --data a folder of text or a parquet, or leave it out")
    place = text_folder(place) or place
    if place.suffix == ".parquet" and place.is_file():
        return Location(place, None, (place,))
    return Location(place, None, tuple(file for file in files_below(place) if file.suffix == ".parquet"))


def load(place: Location, *, bytes_max: int, val_fraction: float, report: DataReport) -> Corpus:
    """Documents of the standard library, of text files, or of parquet; of several shards only those that validate, and
    the other shards. Raises UserError."""
    report.remarks += place.remarks
    try:
        corpus = _read(place, bytes_max, val_fraction, report)
    except UserError as error:
        if not report.count:
            raise
        raise UserError(f"{error.cause}; {report.sentence()}", error.remedy) from error
    is_whole = sum(map(len, corpus.train + corpus.val)) < bytes_max - 3  # A cut may leave out a character of 4 bytes.
    if not (place.path is None or corpus.shards or is_whole):
        report.remarks.append(f"{bytes_max / 1e6:g} MB of {corpus.name} are used: --data_bytes takes more")
    return corpus


def _read(place: Location, bytes_max: int, val_fraction: float, report: DataReport) -> Corpus:
    from trainer.data import parquet, text

    path, name = place.path, place.name
    if path is None:
        name, documents = "python-stdlib", text.standard_library(bytes_max, report)
    elif not place.shards:
        name = path.stem if path.is_file() else path.resolve().name or "text"
        documents = text.documents(path, bytes_max, report)
    else:
        *shards, last = parquet.readable(place.shards, report)
        if shards:
            val = parquet.documents(last, max(1, int(bytes_max * val_fraction)), report, Quality(report.quality.screen))
            if not val:
                raise UserError(
                    f"{last} leaves the validation split empty", "the last shard validates: it must hold text"
                )
            return Corpus(name or path.resolve().name, [], val, tuple(shards))
        path, name = last, name or last.resolve().stem
        documents = parquet.documents(last, bytes_max, report, report.quality)
    return Corpus(name, *split_documents(documents, val_fraction, str(path or name)))


def _from_hub(path: str, files_max: int | None) -> Location:
    address = hub.parse(FINEWEB if path == "hub" else path)
    files = tuple(file for file in hub.fetch(address, files_max) if file.suffix == ".parquet")
    if not files:
        raise UserError(f"{address.repo} has no parquet there", "name its parquet files in the address")
    name = FINEWEB_NAME if path == "hub" else address.name
    return Location(files[0].parent, name, files)
