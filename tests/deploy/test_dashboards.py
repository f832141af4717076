"""The Grafana dashboards as files: generated, well-formed, and about metrics that exist."""

import json
import re
from pathlib import Path

import pytest

from sidecar.metrics import FAMILIES
from tests.deploy.promql import DASHBOARDS, DEPLOY, Query, build_module, metric_names, panels, queries, variables


def test_the_files_are_what_the_generator_writes() -> None:
    expected = build_module().all_dashboards()
    assert {path.name for path in DASHBOARDS} == expected.keys()
    for path in DASHBOARDS:
        assert json.loads(path.read_text()) == expected[path.name], "run: python deploy/grafana/build.py"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_numbered_placed_within_the_grid_and_do_not_overlap(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    everything = list(panels(dashboard))
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_that_a_query_uses_is_defined_and_every_panel_explains_itself(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    defined = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    for panel in panels(dashboard):
        if panel["type"] == "row":
            continue
        assert panel["description"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= defined
            assert target["datasource"]["uid"] == "${datasource}"


def test_the_run_overview_has_run_rank_and_gpu_as_variables() -> None:
    names = {query.panel for query in variables() if query.dashboard == "run-overview"}
    assert names >= {"$run", "$rank", "$gpu"}


EXPORTED = FAMILIES.keys()


@pytest.mark.parametrize("query", [*queries(), *variables()], ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_dashboards_use_exported_metrics_only(query: Query) -> None:
    used = metric_names(query.expr)
    assert used
    assert used <= EXPORTED


def test_rules_use_exported_metrics_only() -> None:
    text = "".join(path.read_text() for path in (DEPLOY / "prometheus/rules").glob("*.yml"))
    rules = re.findall(r"expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", text)
    used = {name for block, line in rules for name in metric_names(block or line)}
    assert len(used) > 20
    assert used <= EXPORTED | set(re.findall(r"- record: (\S+)", text))


def test_metric_names_are_found_in_a_query() -> None:
    expr = 'histogram_quantile(0.5, sum by (run, le) (rate(training_step_duration_seconds_bucket{run=~"$run"}[5m])))'
    assert metric_names(expr) == {"training_step_duration_seconds"}
    assert metric_names("time() - sidecar_x{a=\"training_y\"} / on (run) group_right training_z == 1") == {
        "sidecar_x", "training_z",
    }
