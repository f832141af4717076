"""wandb.plot: charts are not drawn; a chart made of a table keeps its table."""

from typing import Any

from ..data_types import CustomChart, Table


def plot_table(
    vega_spec_name: str, data_table: Any, fields: Any = None, string_fields: Any = None, **_: Any
) -> CustomChart:
    return CustomChart(data_table, vega_spec_name)


def visualize(id: str, value: Any) -> CustomChart:
    return CustomChart(value, id)


def _chart(name: str) -> Any:
    def chart(*args: Any, **kwargs: Any) -> CustomChart:
        tables = [value for value in (*args, *kwargs.values()) if isinstance(value, Table)]
        return CustomChart(tables[0] if tables else None, name)

    chart.__name__ = name
    return chart


bar = _chart("bar")
confusion_matrix = _chart("confusion_matrix")
histogram = _chart("histogram")
line = _chart("line")
line_series = _chart("line_series")
pr_curve = _chart("pr_curve")
roc_curve = _chart("roc_curve")
scatter = _chart("scatter")
