"""Of a name that several ranks tell, the lowest rank's values only: for outlets that draw one line for a name. Pure.

Given: rows, in order. Hands on: as many rows; what a lower rank tells, too, is taken out of a higher one's.
Never: touches steps (their derived row joins all ranks), what the sidecar computed or measured, or a name that only a
higher rank tells.
"""

from collections.abc import Sequence

import msgspec

from sidecar.rows import Row

NAMES_MAX = 20_000
LEFT_ALONE = ("step", "derived", "hardware")


class LowestRank:
    """Remembers who tells what: a rank is heard until a lower one tells the same."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def feed(self, rows: Sequence[Row]) -> list[Row]:
        return [row if row.rank < 0 or row.kind in LEFT_ALONE else self._row(row) for row in rows]

    def _row(self, row: Row) -> Row:
        kept = {}
        for name, value in row.metrics.items():
            lowest = self._of.get(name, row.rank)
            if lowest >= row.rank:
                kept[name] = value
                if len(self._of) < NAMES_MAX:
                    self._of[name] = row.rank
        return row if len(kept) == len(row.metrics) else msgspec.structs.replace(row, metrics=kept)
