"""The scrape configuration and rules, judged by Prometheus' own tool."""

import re
import subprocess
from collections.abc import Callable

import pytest

from tests.deploy.promql import DEPLOY

Promtool = Callable[..., "subprocess.CompletedProcess[str]"]
ALERTS = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/rules/alerts.yml").read_text())


def test_promtool_accepts_the_configuration_and_its_rules(promtool: Promtool) -> None:
    result = promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yml"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rules found" in result.stdout


def test_every_alert_fires_when_it_should_and_only_then(promtool: Promtool) -> None:
    result = promtool("test", "rules", str(DEPLOY / "prometheus/tests/rules_test.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_covered_by_a_case_in_which_it_fires(alert: str) -> None:
    cases = (DEPLOY / "prometheus/tests/rules_test.yml").read_text()
    as_series = rf'labels: \'ALERTS\{{alertname="{alert}",alertstate="firing"'
    as_alert = rf"alertname: {alert}\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels"
    assert re.search(as_series, cases) or re.search(as_alert, cases)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_severe_it_is_and_what_to_do(alert: str) -> None:
    rules = (DEPLOY / "prometheus/rules/alerts.yml").read_text()
    rule = re.split(r"\n      - alert: ", rules.split(f"- alert: {alert}\n")[1])[0]
    assert re.search(r"labels: \{severity: (critical|warning)\}", rule)
    assert "summary:" in rule
    assert "description:" in rule
