"""One row for each step: the lowest rank's own values together with those derived from all ranks. Pure.

Given: the state that the journal is folded into, and the rows of one record after another. Hands on: as many rows. A
step's own rows are empty; the values are in its derived row, which comes once all ranks have reported the step.
Never: keeps anything that could not be found again. The steps whose values are still to come are those that the state
has open, so reading may begin at any row of the journal and gives the same rows from there on: a kill loses nothing.
"""

from collections.abc import Sequence
from typing import Any

from sidecar.rows import Row
from sidecar.state import Join, RunState

StepKey = tuple[int, int | None]
"""Sequence number and step of a row; a derived row has those of the lowest rank's."""


class StepJoiner:
    def __init__(self, state: RunState) -> None:
        """``state``: of the projector whose rows come; it changes with every record."""
        self._state = state
        self._open: dict[int, list[Join]] = {}
        """By step, one for each attempt. A join has the values of the lowest rank that has reported the step so far."""
        for join in (*state.stale, *state.pending.values()):
            rank = state.ranks.get(join.rank)
            if rank is None or not rank.log_steps:  # The steps of a captured script are its log rows, which stay.
                self._keep(join)

    def feed(self, rows: Sequence[Row]) -> list[Row]:
        """``rows``: all that one record became; the state has folded it."""
        own = {(row.seq, row.step): row for row in rows if row.kind == "step"}
        derived = {(row.seq, row.step) for row in rows if row.kind == "derived"}
        out: list[Row] = []
        for row in rows:
            if row.kind == "step" and row.step is not None:
                is_late = self._is_late(row, row.step, derived)
                out.append(row if is_late else _with(row, {}))
            elif row.kind == "derived" and row.step is not None:
                out.append(self._completed(row, row.step, own))
            else:
                out.append(row)
        if self._open and not self._state.pending and not self._state.stale:
            self._open.clear()  # What was too late to be completed.
        return out

    def _is_late(self, row: Row, step: int, derived: set[StepKey]) -> bool:
        """Will no derived row bring these values? So it is with a step that is reported again, or after it was
        completed without this rank. Only the lowest rank's are worth a row of their own."""
        join = self._state.pending.get(step)
        if join is not None and (join.rank, join.seq) == (row.rank, row.seq):
            self._keep(join)
            return False
        return row.rank == self._state.lead and (row.seq, step) not in derived

    def _keep(self, join: Join) -> None:
        known = self._open.setdefault(join.step, [])
        if not any(join is other for other in known):
            known.append(join)

    def _completed(self, row: Row, step: int, own: dict[StepKey, Row]) -> Row:
        joins = self._open.get(step, [])
        join = next((join for join in joins if join.seq == row.seq), None)
        if join is not None:
            values = join.metrics
            self._open[step] = [other for other in joins if other is not join]
            if len(joins) == 1:
                del self._open[step]
        else:  # Complete with its first report.
            sent = own.get((row.seq, step))
            values = sent.metrics if sent is not None else {}
        return _with(row, {**values, **row.metrics})


def _with(row: Row, metrics: dict[str, Any]) -> Row:
    return Row(row.run, row.rank, row.seq, row.step, row.time, row.kind, metrics)
