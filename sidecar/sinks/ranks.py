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
    """Remembers who tells what: a rank is heard until a lower one tells the same, in this batch or an earlier one."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def feed(self, rows: Sequence[Row]) -> list[Row]:
        for row in rows:
            if _is_told(row):
                self._note(row)
        return [self._row(row) if _is_told(row) else row for row in rows]

    def _note(self, row: Row) -> None:
        for name in row.metrics:
            if row.rank < self._of.get(name, row.rank + 1) and (name in self._of or len(self._of) < NAMES_MAX):
                self._of[name] = row.rank

    def _row(self, row: Row) -> Row:
        kept = {name: value for name, value in row.metrics.items() if self._of.get(name, row.rank) >= row.rank}
        return row if len(kept) == len(row.metrics) else msgspec.structs.replace(row, metrics=kept)


def _is_told(row: Row) -> bool:
    return row.rank >= 0 and row.kind not in LEFT_ALONE
