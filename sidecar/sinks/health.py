"""How a sink is, over all runs that are sent to it. Pure.

Given: the health of each of its runners. Hands on: one health for `/status`. Never: changes one of them.
"""

from collections.abc import Mapping

import msgspec

from sidecar.telemetry import SinkHealth

RUN_CHARS_MAX = 60


def joined(by_run: Mapping[str, SinkHealth], before: SinkHealth | None = None) -> SinkHealth:
    """The last one's state, unless another fails, whose run is named then; the sums of the counts, on top of those
    ``before``; the longest wait."""
    healths = list(by_run.values())
    newest = shown = healths[-1]
    reason = newest.reason
    failing = next((run_id for run_id, health in by_run.items() if health.state == "failing"), None)
    if failing is not None and newest.state != "failing":
        shown = by_run[failing]
        reason = f"run {failing[:RUN_CHARS_MAX]}: {shown.reason}"
    counted = [before, *healths] if before is not None else healths
    lags = [health.lag_events for health in healths if health.lag_events is not None]
    ages = [health.lag_seconds for health in healths if health.lag_seconds is not None]
    return msgspec.structs.replace(
        shown,
        reason=reason,
        url=newest.url,
        delivered_rows=sum(health.delivered_rows for health in counted),
        lag_events=sum(lags) if lags else None,
        lag_seconds=max(ages, default=None),
        failures_total=sum(health.failures_total for health in counted),
        restarts_total=sum(health.restarts_total for health in counted),
        dead_letters_total=sum(health.dead_letters_total for health in counted),
        lost_rows_total=sum(health.lost_rows_total for health in counted),
    )
