"""Media types. Histograms, tables and texts are kept, the rest is counted; the data given stays accessible.

Given: what a script hands to them. Hands on: objects that the recorder tells by their class.
Never: reads a file, encodes a picture, or imports numpy unless a histogram is made of raw values.
"""

from collections.abc import Sequence
from typing import Any

from sidecar.client.capture.plain import binned


class WBValue:
    _log_type: str | None = None

    def to_json(self, run_or_artifact: Any = None) -> dict[str, Any]:
        return {"_type": self._log_type}


class Media(WBValue):
    def __init__(self, data_or_path: Any = None, *args: Any, **kwargs: Any) -> None:
        self._data, self._args = data_or_path, args
        for name, value in kwargs.items():
            object.__setattr__(self, name if not name.startswith("_") else f"given{name}", value)
        self._caption = kwargs.get("caption")


class BatchableMedia(Media):
    pass


class Image(BatchableMedia):
    _log_type = "image-file"

    @property
    def image(self) -> Any:
        return self._data


class Audio(BatchableMedia):
    _log_type = "audio-file"


class Video(BatchableMedia):
    _log_type = "video-file"


class Object3D(BatchableMedia):
    _log_type = "object3D-file"


class Molecule(BatchableMedia):
    _log_type = "molecule-file"


class Plotly(Media):
    _log_type = "plotly-file"


class Graph(Media):
    _log_type = "graph-file"


class Node(WBValue):
    """One layer of a graph, with its keywords as attributes."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


class Classes(Media):
    _log_type = "classes"


class Bokeh(Media):
    _log_type = "bokeh-file"


class Html(BatchableMedia):
    _log_type = "html-file"

    def __init__(self, data: Any, inject: bool = True, data_is_not_path: bool = False) -> None:
        super().__init__(data)
        self.html = data.read() if hasattr(data, "read") else str(data)


class Histogram(WBValue):
    _log_type = "histogram"
    MAX_LENGTH = 512

    def __init__(self, sequence: Any = None, np_histogram: Any = None, num_bins: int = 64) -> None:
        """Raises ValueError for bins that do not fit the counts, or values that are not finite."""
        if np_histogram:
            if len(np_histogram) != 2:
                raise ValueError(
                    "Expected np_histogram to be a tuple of (values, bin_edges) or sequence to be specified"
                )
            counts, bins = np_histogram
        else:
            counts, bins = _histogram(sequence, num_bins)
        self.histogram: list[Any] = counts.tolist() if hasattr(counts, "tolist") else counts
        self.bins: list[Any] = bins.tolist() if hasattr(bins, "tolist") else bins
        if len(self.histogram) > self.MAX_LENGTH:
            raise ValueError(f"The maximum length of a histogram is {self.MAX_LENGTH}")
        if len(self.histogram) + 1 != len(self.bins):
            raise ValueError("len(bins) must be len(histogram) + 1")

    def to_json(self, run_or_artifact: Any = None) -> dict[str, Any]:
        return {"_type": self._log_type, "values": self.histogram, "bins": self.bins}


def _histogram(sequence: Any, bins: int) -> tuple[Any, Any]:
    if hasattr(sequence, "detach"):
        sequence = sequence.detach().cpu().float()
    try:
        import numpy as np
    except ImportError:
        found = binned([float(value) for value in sequence], bins)
        return [int(count) for count in found.counts], found.edges
    return np.histogram(sequence, bins=bins)


class Table(Media):
    _log_type = "table"
    MAX_ROWS = 10_000

    def __init__(
        self,
        columns: Sequence[Any] | None = None,
        data: Any = None,
        rows: Any = None,
        dataframe: Any = None,
        dtype: Any = None,
        optional: Any = True,
        allow_mixed_types: bool = False,
        log_mode: str | None = "IMMUTABLE",
    ) -> None:
        super().__init__()
        self.log_mode = log_mode
        source = dataframe if dataframe is not None else data if hasattr(data, "itertuples") else None
        if source is not None:
            self.columns = [str(name) for name in source.columns]
            self.data: list[Any] = [list(row) for row in source.itertuples(index=False)]
            return
        self.columns = list(columns) if columns is not None else ["Input", "Output", "Expected"]
        given = data if data is not None else rows
        given = [] if given is None else given.tolist() if hasattr(given, "tolist") else given
        self.data = []
        for row in given:
            self.add_data(*row)

    def add_data(self, *data: Any) -> None:
        """Raises ValueError when the number of values is not that of the columns."""
        if len(data) != len(self.columns):
            raise ValueError(
                f"This table expects {len(self.columns)} columns: {self.columns}, found {len(data)}"
            )
        self.data.append(list(data))

    def add_row(self, *row: Any) -> None:
        self.add_data(*row)

    def add_column(self, name: str, data: Any, optional: bool = False) -> None:
        values = data.tolist() if hasattr(data, "tolist") else list(data)
        if not self.data and not self.columns:
            self.data = [[] for _ in values]
        if len(values) != len(self.data):
            raise AssertionError(f"Expected length {len(self.data)}, found {len(values)}")
        self.columns.append(name)
        for row, value in zip(self.data, values, strict=True):
            row.append(value)

    def get_column(self, name: str, convert_to: str | None = None) -> Any:
        index = self.columns.index(name)
        return [row[index] for row in self.data]

    def iterrows(self) -> Any:
        yield from enumerate(self.data)

    def get_dataframe(self) -> Any:
        import pandas as pd  # type: ignore[import-not-found]

        return pd.DataFrame.from_records(self.data, columns=self.columns)


class EvalTable(Table):
    pass


class JoinedTable(Media):
    _log_type = "joined-table"


def box3d(**kwargs: Any) -> dict[str, Any]:
    return kwargs


class CustomChart(Media):
    """What wandb.plot functions return; its table is kept."""

    _log_type = "custom-chart"

    def __init__(self, table: Any = None, name: str = "") -> None:
        super().__init__()
        self.table, self.chart = table, name
        if isinstance(table, Table):
            self.columns, self.data = table.columns, table.data
