"""How a sink is, over all runs that are sent to it. Pure.

Given: the health of each of its runners. Hands on: one health for `/status`. Never: changes one of them.
"""

import msgspec

from sidecar.telemetry import SinkHealth


def joined(healths: list[SinkHealth]) -> SinkHealth:
    """The last one's state, unless another fails; the sums of the counts; the longest wait."""
    newest = healths[-1]
    shown = newest if newest.state == "failing" else next((h for h in healths if h.state == "failing"), newest)
    lags = [health.lag_events for health in healths if health.lag_events is not None]
    ages = [health.lag_seconds for health in healths if health.lag_seconds is not None]
    return msgspec.structs.replace(
        shown,
        url=newest.url,
        delivered_rows=sum(health.delivered_rows for health in healths),
        lag_events=sum(lags) if lags else None,
        lag_seconds=max(ages, default=None),
        failures_total=sum(health.failures_total for health in healths),
        restarts_total=sum(health.restarts_total for health in healths),
        dead_letters_total=sum(health.dead_letters_total for health in healths),
        lost_rows_total=sum(health.lost_rows_total for health in healths),
    )
