"""For each metric name the values of the lowest rank that logs it: for outlets that draw one line per name. Pure.

Given: rows, in order. Hands on: as many rows; names that a lower rank logs as well are removed from a higher rank's.
Never: touches steps (their derived row joins all ranks), what the sidecar computed or measured, or a name that only a
higher rank logs.
"""

from collections.abc import Sequence

import msgspec

from sidecar.rows import Row

NAMES_MAX = 20_000
LEFT_ALONE = ("step", "derived", "hardware")


class LowestRank:
    """Remembers the lowest rank of each name: a rank's values pass until a lower rank logs the same name."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def feed(self, rows: Sequence[Row]) -> list[Row]:
        for row in rows:
            if _is_logged(row):
                self._note(row)
        return [self._row(row) if _is_logged(row) else row for row in rows]

    def _note(self, row: Row) -> None:
        for name in row.metrics:
            if row.rank < self._of.get(name, row.rank + 1) and (name in self._of or len(self._of) < NAMES_MAX):
                self._of[name] = row.rank

    def _row(self, row: Row) -> Row:
        kept = {name: value for name, value in row.metrics.items() if self._of.get(name, row.rank) >= row.rank}
        return row if len(kept) == len(row.metrics) else msgspec.structs.replace(row, metrics=kept)


def _is_logged(row: Row) -> bool:
    return row.rank >= 0 and row.kind not in LEFT_ALONE
