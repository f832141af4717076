"""Writes the Grafana dashboards: ``python deploy/grafana/build.py``.

Given: the tables below. Hands on: dashboards/*.json, ready to be provisioned.
Never: reads a clock or the network, so that the same tables give the same files (a test compares them).

Queries use raw metrics only, no recording rules: a dashboard also works on a Prometheus that has just the scrape.
Percentages stay ratios 0..1 in the query; the panel formats them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARDS = Path(__file__).parent / "dashboards"
SCHEMA_VERSION = 39
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

RUN = 'run=~"$run"'
GPU = 'run=~"$run",gpu=~"$gpu"'
RANK = 'run=~"$run",rank=~"$rank"'


class Panel(NamedTuple):
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """(PromQL, legend)"""
    help: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    stack: bool = False
    log: bool = False
    thresholds: tuple[tuple[float, str], ...] = ()
    """Stats turn this colour from this value on."""


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


def stat(title: str, unit: str, query: str, help: str, legend: str = "{{run}}", **options: Any) -> Panel:
    return Panel(title, unit, ((query, legend),), help, kind="stat", width=4, height=4, **options)


OVERVIEW = (
    Row("Run", (
        stat("State", "none", f"training_run_state{{{RUN}}} == 1",
             "What the sidecar makes of step progress; heartbeats do not count.", legend="{{state}}"),
        stat("Step", "none", f"training_step{{{RUN}}}", "The latest step that every rank has ended."),
        stat("Progress", "percentunit", f"training_progress_ratio{{{RUN}}}", "Steps done of the steps planned."),
        stat("Time left", "s", f"training_eta_seconds{{{RUN}}}", "At the present pace; absent without a known end."),
        stat("Since the last step", "s", f"time() - training_last_step_timestamp_seconds{{{RUN}}}",
             "Age of the latest step by the scraper's clock.", thresholds=((60, "orange"), (600, "red"))),
        stat("Goodput", "percentunit", f"training_goodput_ratio{{{RUN}}}",
             "Share of the run's time spent on steps that count."),
        stat("Loss", "none", f"training_loss{{{RUN}}}", "Of the latest step; NaN is shown as NaN."),
        stat("Tokens", "short", f"training_tokens_total{{{RUN}}}", "Consumed by all ranks, steps done again included."),
        stat("Tokens/s", "short", f"training_tokens_per_second{{{RUN}}}", "Over the sidecar's sliding window."),
        stat("MFU", "percentunit", f'training_mfu_ratio{{{RUN},attention="full"}}',
             "Model FLOPs utilisation, attention counted in full. Denominator and its source: /status."),
        stat("Energy", "joule", f"training_energy_joules_total{{{RUN}}}",
             "Since the run began: of the GPUs it uses, if the driver lists its processes; else of all of the node."),
        stat("Events lost", "none", f"training_events_lost_total{{{RUN}}}",
             "Events that no longer exist anywhere, counted exactly.", thresholds=((1, "red"),)),
    )),
    Row("Learning", (
        Panel("Loss", "none", (
            (f"training_loss{{{RUN}}}", "{{run}}"),
            (f"training_loss_smoothed{{{RUN}}}", "{{run}} smoothed"),
        ), "Latest value and exponential average without start-up bias."),
        Panel("Perplexity", "none", ((f"training_perplexity{{{RUN}}}", "{{run}}"),),
              "exp(loss); shows the same on a scale that readers of papers know.", log=True),
        Panel("Validation", "none", ((f'training_metric{{{RUN},name=~"val/.*"}}', "{{name}} {{run}}"),),
              "Everything logged under val/."),
        Panel("Learning rate", "sci", ((f"training_learning_rate{{{RUN}}}", "{{run}}"),), "As the trainer reports it."),
        Panel("Gradient norm", "none", ((f"training_grad_norm{{{RUN}}}", "{{run}}"),),
              "Before clipping, if the trainer reports it so.", log=True),
        Panel("Any metric", "none", ((f'training_metric{{{RUN},name=~"$metric"}}', "{{name}} {{run}}"),),
              "Choose names in the variable at the top."),
    )),
    Row("Speed", (
        Panel("Tokens per second", "short", (
            (f"sum by (run) (rate(training_tokens_total{{{RUN}}}[$__rate_interval]))", "{{run}}"),
        ), "From the counter: exact over any interval, pauses included."),
        Panel("Step time", "s", tuple(
            (f"histogram_quantile({q}, sum by (run, le) "
             f"(rate(training_step_duration_seconds_bucket{{{RUN}}}[$__rate_interval])))",
             f"p{int(q * 100)} {{{{run}}}}")
            for q in (0.5, 0.95, 0.99)
        ), "Step end to step end, from the histogram."),
        Panel("MFU", "percentunit", ((f"training_mfu_ratio{{{RUN}}}", "{{attention}} {{run}}"),),
              "full counts all of the attention matrix, causal its lower half: never compare one with the other."),
        Panel("Where the time goes", "percentunit", (
            (f"sum by (state) (rate(training_state_seconds_total{{{RUN}}}[$__rate_interval]))", "{{state}}"),
        ), "Every second is in exactly one state.", stack=True),
        Panel("Phases", "percentunit", (
            (f"sum by (phase) (rate(training_phase_seconds_total{{{RUN}}}[$__rate_interval]))", "{{phase}}"),
        ), "Seconds per second that the trainer reports for each phase.", stack=True),
        Panel("FLOP/s", "flops", (
            (f"sum by (run) (rate(training_flops_total{{{RUN}}}[$__rate_interval]))", "{{run}}"),
        ), "Model FLOPs over time, all devices together."),
    )),
    Row("Ranks", (
        Panel("Steps behind the first rank", "none", (
            (f"max by (run) (training_rank_step{{{RUN}}}) - on (run) group_right training_rank_step{{{RANK}}}",
             "rank {{rank}}"),
        ), "In synchronous training this stays near 0; the rank that stops first holds up the others."),
        Panel("Step time by rank", "s", ((f"training_rank_step_duration_seconds{{{RANK}}}", "rank {{rank}}"),),
              "The latest of each rank."),
        Panel("Tokens per second by rank", "short",
              ((f"training_rank_tokens_per_second{{{RANK}}}", "rank {{rank}}"),), "Each rank's own count."),
    ), collapsed=True),
    Row("Data", (
        Panel("Tokens by dataset", "short", (
            (f"sum by (dataset) (rate(training_dataset_tokens_total{{{RUN}}}[$__rate_interval]))", "{{dataset}}"),
        ), "What is being consumed now.", stack=True),
        Panel("Share so far", "percentunit", ((f"training_dataset_share_ratio{{{RUN}}}", "{{dataset}}"),),
              "Of all samples of the run; of its tokens where samples are not counted.", stack=True),
        Panel("Samples by dataset", "short", ((f"training_dataset_samples_total{{{RUN}}}", "{{dataset}}"),),
              "Consumed since the run began."),
    ), collapsed=True),
    Row("GPUs", (
        Panel("Utilisation", "percentunit", ((f"training_gpu_utilization_ratio{{{GPU}}}", "{{gpu}}"),),
              "Share of time in which any kernel ran. 100 % says nothing about its worth: look at MFU."),
        Panel("Memory used", "bytes", ((f"training_gpu_memory_used_bytes{{{GPU}}}", "{{gpu}}"),),
              "Of the device, all processes."),
        Panel("Power", "watt", (
            (f"max by (gpu) (rate(training_gpu_energy_joules_total{{{GPU}}}[$__rate_interval]))", "{{gpu}}"),
        ), "From the energy counter: a true average, unlike the sensor's momentary value."),
        Panel("Temperature", "celsius", ((f"training_gpu_temperature_celsius{{{GPU}}}", "{{gpu}}"),), "GPU core."),
        Panel("Throttled", "percentunit", (
            (f"max by (gpu, reason) (rate(training_gpu_throttle_seconds_total{{{GPU}}}[$__rate_interval]))",
             "{{reason}} {{gpu}}"),
        ), "Share of time slowed down, by reason. The power cap alone is normal under load."),
        Panel("Energy per token", "joule", (
            (f"sum(rate(training_gpu_energy_joules_total{{{RUN}}}[$__rate_interval]) "
             f"and on (instance, run, gpu) training_gpu_attributed == 1) "
             f"/ sum(rate(training_tokens_total{{{RUN}}}[$__rate_interval]))", "J per token"),
        ), "Of the GPUs on which processes of the chosen runs are listed; where none is, of all of the machine."),
        Panel("SM clock", "hertz", ((f"training_gpu_sm_clock_hertz{{{GPU}}}", "{{gpu}}"),), "Drops when throttled."),
        Panel("PCIe", "Bps", (
            (f"max by (gpu) (rate(training_gpu_pcie_receive_bytes_total{{{GPU}}}[$__rate_interval]))", "in {{gpu}}"),
            (f"max by (gpu) (rate(training_gpu_pcie_transmit_bytes_total{{{GPU}}}[$__rate_interval]))", "out {{gpu}}"),
        ), "Bytes per second between GPU and host."),
        Panel("Lost GPUs", "none", ((f"sum by (run) (training_gpu_lost{{{RUN}}})", "{{run}}"),),
              "Seen before, no longer answering the driver."),
    ), collapsed=True),
    Row("Host", (
        Panel("CPU", "percentunit", (
            (f"training_host_cpu_ratio{{{RUN}}}", "host {{run}}"),
            (f"training_host_trainer_cpu_ratio{{{RUN}}}", "trainers, of one core {{run}}"),
        ), "The host's share of all cores; the trainers' sum in cores."),
        Panel("Memory", "bytes", (
            (f"training_host_memory_used_bytes{{{RUN}}}", "used {{run}}"),
            (f"training_host_memory_total_bytes{{{RUN}}}", "total {{run}}"),
            (f"training_host_trainer_memory_bytes{{{RUN}}}", "trainers {{run}}"),
        ), "Resident memory."),
        Panel("Disk", "percentunit", (
            (f"training_host_disk_used_bytes{{{RUN}}} / training_host_disk_total_bytes{{{RUN}}}", "{{run}}"),
        ), "Of the file system with the sidecar's data."),
        Panel("Network", "Bps", (
            (f"rate(training_host_network_received_bytes_total{{{RUN}}}[$__rate_interval])", "in {{run}}"),
            (f"rate(training_host_network_sent_bytes_total{{{RUN}}}[$__rate_interval])", "out {{run}}"),
        ), "All interfaces of the host."),
        Panel("Disk traffic", "Bps", (
            (f"rate(training_host_disk_read_bytes_total{{{RUN}}}[$__rate_interval])", "read {{run}}"),
            (f"rate(training_host_disk_written_bytes_total{{{RUN}}}[$__rate_interval])", "written {{run}}"),
        ), "All disks of the host."),
        Panel("Load", "none", ((f"training_host_load_1m{{{RUN}}}", "1 min {{run}}"),), "Processes that want a CPU."),
    ), collapsed=True),
)

SIDECAR = (
    Row("Intake", (
        Panel("Events per second", "short", (("sum by (instance) (rate(sidecar_events_total[$__rate_interval]))",
                                              "{{instance}}"),), "Committed to the journal."),
        Panel("Streams", "none", (("sidecar_streams", "{{instance}}"),), "Training processes that were heard of."),
        Panel("Events lost", "none", (("sum by (run) (training_events_lost_total)", "{{run}}"),),
              "Declared lost, exactly."),
        Panel("Journal", "bytes", (("sidecar_journal_bytes", "{{instance}}"),), "Size on disk."),
        Panel("Commits per second", "short", (
            ("sum by (instance) (rate(sidecar_journal_commits_total[$__rate_interval]))", "{{instance}}"),
        ), "One commit covers a batch."),
        Panel("Duplicates", "none", (("sidecar_duplicates_total", "{{instance}}"),),
              "Sent again after a break and recognised; harmless."),
    )),
    Row("Outlets", (
        Panel("Lag", "none", (("sidecar_sink_lag_events", "{{sink}} {{instance}}"),), "Rows not yet delivered."),
        Panel("Delivered per second", "short", (
            ("sum by (sink, instance) (rate(sidecar_sink_delivered_rows_total[$__rate_interval]))",
             "{{sink}} {{instance}}"),
        ), "Rows."),
        Panel("Failures", "none", (("sidecar_sink_failures_total", "{{sink}} {{instance}}"),),
              "Deliveries that will be tried again."),
    )),
    Row("Collectors", (
        Panel("Working", "none", (("sidecar_collector_success", "{{collector}} {{instance}}"),),
              "nvml is 0 on a machine without an NVIDIA GPU."),
        Panel("Time per reading", "s", (("sidecar_collector_duration_seconds", "{{collector}} {{instance}}"),),
              "What sampling costs."),
        Panel("GPUs in trouble", "none", (
            ("sum by (instance) (sidecar_gpu_lost)", "lost {{instance}}"),
            ("sum by (instance) (sidecar_gpu_recovery_action > bool 0)", "to be reset {{instance}}"),
        ), "Read whether or not a run trains. The alerts say which."),
        Panel("Sidecar itself", "percentunit", (("training_host_sidecar_cpu_ratio", "{{run}}"),), "Share of one core."),
    )),
)

VARIABLES = {
    "run": "label_values(training_run_info, run)",
    "rank": 'label_values(training_rank_step{run=~"$run"}, rank)',
    "gpu": 'label_values(training_gpu_info{run=~"$run"}, gpu)',
    "metric": 'label_values(training_metric{run=~"$run"}, name)',
}


def dashboard(uid: str, title: str, rows: tuple[Row, ...], variables: dict[str, str]) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["trainer-sidecar"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables(variables))},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "tags": ["trainer-sidecar"], "asDropdown": False, "title": "",
                   "includeVars": True, "keepTime": True}],
        "panels": list(_panels(rows)),
    }


def _variables(variables: dict[str, str]) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    for name, query in variables.items():
        yield {
            "name": name, "type": "query", "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 4 if name == "rank" else 1,
            "multi": True, "includeAll": True, "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _panels(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """Left to right, top to bottom. Panels of a collapsed row live inside it."""
    number, y = 1, 0
    for row in rows:
        header: dict[str, Any] = {
            "id": number, "type": "row", "title": row.title, "collapsed": row.collapsed, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }
        number, y = number + 1, y + 1
        placed, x, tallest = [], 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(_panel(panel, number, x, y))
            number, x, tallest = number + 1, x + panel.width, max(tallest, panel.height)
        y += tallest
        header["panels"] = placed if row.collapsed else []
        yield header
        if not row.collapsed:
            yield from placed


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps = [{"color": "green", "value": None}, *({"color": colour, "value": at} for at, colour in panel.thresholds)]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any]
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none",
                   "colorMode": "value" if panel.thresholds else "none",
                   "textMode": "name" if panel.title == "State" else "value"}
    else:
        defaults["custom"] = {
            "lineWidth": 1, "fillOpacity": 20 if panel.stack else 0, "showPoints": "auto", "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stack else "none"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log else {"type": "linear"},
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.help, "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend,
             "instant": panel.kind == "stat", "range": panel.kind != "stat"}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }


def all_dashboards() -> dict[str, dict[str, Any]]:
    """File name -> content."""
    return {
        "run-overview.json": dashboard("trainer-sidecar-run", "Training run", OVERVIEW, VARIABLES),
        "sidecar.json": dashboard("trainer-sidecar-monitor", "Training sidecar", SIDECAR, {}),
    }


def main() -> None:
    DASHBOARDS.mkdir(exist_ok=True)
    for name, content in all_dashboards().items():
        (DASHBOARDS / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
