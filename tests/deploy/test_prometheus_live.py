"""The real Prometheus, with the deployment's configuration, scraping a real run: every panel shows something."""

import json
import math
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.conftest import Sidecar, get, wait_for
from tests.deploy.promql import Query, metric_names, queries, substituted, variables
from tests.fakes.nvml.fake import uuid

pytestmark = pytest.mark.slow
Ask = Callable[[str], list[Any]]
INTERVAL = "30s"


def numbers(result: list[Any]) -> list[float]:
    return [value for series in result if not math.isnan(value := float(series["value"][1]))]


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_every_panel_returns_data_with_the_labels_of_its_legend(prometheus: Ask, query: Query) -> None:
    expr = substituted(query.expr, INTERVAL)
    assert "$" not in expr
    wait_for(expr, lambda: numbers(prometheus(expr)), seconds=45)
    for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
        assert all(label in series["metric"] for series in prometheus(expr)), f"the legend names {label}"


@pytest.mark.parametrize("variable", list(variables()), ids=lambda variable: variable.panel)
def test_every_variable_offers_a_choice(prometheus: Ask, variable: Query) -> None:
    selector, _, label = variable.expr.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    found = prometheus(f"count by ({label}) ({substituted(selector, INTERVAL)})")
    assert [series for series in found if series["metric"].get(label)], metric_names(variable.expr)


def test_no_rule_fails_and_no_alert_fires_on_a_healthy_run(prometheus: Ask) -> None:
    answer = json.loads(get(f"{prometheus.url}/api/v1/rules"))  # type: ignore[attr-defined]
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert len(rules) >= 20
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []
    firing = prometheus('ALERTS{alertstate="firing",alertname!~"DiskNearlyFull|HostMemoryNearlyFull"}')
    assert firing == [], "the disk and memory of the machine that runs the tests are not ours to judge"


def test_eight_gpus_are_eight_label_sets_with_exact_values(prometheus: Ask, sidecar: Sidecar) -> None:
    power = prometheus("training_gpu_power_watts")
    assert {series["metric"]["gpu"] for series in power} == {uuid(index) for index in range(8)}
    by_gpu = {series["metric"]["gpu"]: float(series["value"][1]) for series in power}
    assert by_gpu[uuid(3)] == pytest.approx(650.503)


def test_promtool_finds_nothing_wrong_with_the_exposition(
    promtool: Callable[..., "subprocess.CompletedProcess[str]"], sidecar: Sidecar
) -> None:
    import shutil

    result = subprocess.run(
        [str(shutil.which("promtool")), "check", "metrics"], input=get(f"{sidecar.url}/metrics"), capture_output=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr.decode() + result.stdout.decode()


def test_a_gpu_that_is_lost_raises_the_alert(prometheus: Ask, sidecar: Sidecar) -> None:
    sidecar.gpus.update({"error.6": 15})
    try:
        found = wait_for("the alert", lambda: prometheus('ALERTS{alertname="GpuLost"}'))  # It fires a minute later.
        assert [series["metric"]["gpu"] for series in found] == [uuid(6)]
    finally:
        sidecar.gpus.update({"error.6": None})
