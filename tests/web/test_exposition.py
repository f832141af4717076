"""/metrics: valid for the real tools, monotonic, capped, rendered once."""

import gzip
import math
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.metrics import FAMILIES
from sidecar.telemetry import LOSS_REASONS, REJECTION_REASONS, Telemetry
from sidecar.web import samples
from sidecar.web.exposition import HOLD_SECONDS, OPENMETRICS, TEXT, Exposition, accepts_gzip, negotiate
from tests.web.conftest import Client
from tests.web.fake_views import FakeViews, make_snapshot, make_telemetry

HOSTILE = ('<script>alert(1)</script>', 'line\nbreak"} 1\ntraining_loss{run="fake"} 666', "back\\slash", "nul\0byte",
           "\u202ertl override", "\ud800 lone surrogate", "x" * 5_000, "a" + "\u0301" * 500, "\x1b[31mred", "", "other")
OM = "application/openmetrics-text"


def values(views: FakeViews, name: str) -> dict[tuple[str, ...], float]:
    """Samples of one name as a scraper reads them, by label values."""
    body = Exposition(views).serve().body.decode()
    return {tuple(sample.labels.values()): sample.value for family in parse_text(body) for sample in family.samples
            if sample.name == name}


@pytest.mark.parametrize("snapshots", [
    [], [make_snapshot()], [make_snapshot(ranks=64, gpus=8, metrics=50), make_snapshot("second", gpus=0)],
    [make_snapshot(loss=None, loss_state="nan", grad_norm=None, grad_norm_state="inf")],
], ids=["no run", "one run", "64 ranks", "nan loss"])
def test_promtool_finds_nothing_to_complain_about(promtool: str, snapshots: list) -> None:
    body = Exposition(FakeViews(*snapshots)).serve().body
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_both_formats_say_the_same_to_the_official_parsers() -> None:
    exposition = Exposition(FakeViews(make_snapshot(ranks=8, gpus=8), make_snapshot("b", loss_state="nan")))
    text, openmetrics = exposition.serve(), exposition.serve(OM)
    assert (text.content_type, openmetrics.content_type) == (TEXT, OPENMETRICS)

    def read(families: object) -> dict:
        return {(s.name, tuple(sorted(s.labels.items()))): str(s.value) for f in families for s in f.samples}

    assert read(parse_text(text.body.decode())) == read(parse_openmetrics(openmetrics.body.decode()))


def test_every_exposed_family_and_label_is_the_catalogue_s() -> None:
    body = Exposition(FakeViews(make_snapshot(gpus=2, metrics=3))).serve(OM).body.decode()
    for family in parse_openmetrics(body):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        entry = FAMILIES[family.name + suffix]
        assert entry.kind == family.type, family.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(entry.labels), family.name


def test_every_family_that_the_design_promises_is_there() -> None:
    body = Exposition(FakeViews(make_snapshot())).serve().body.decode()
    for name in ("training_run_info", "training_step", "training_steps_total", "training_tokens_total",
                 "training_samples_total", "training_flops_total", "training_loss", "training_loss_smoothed",
                 "training_learning_rate", "training_grad_norm", "training_step_duration_seconds_bucket",
                 "training_tokens_per_second", 'training_mfu_ratio{attention="full"', "training_eta_seconds",
                 "training_last_step_timestamp_seconds", "training_state_seconds_total",
                 "training_dataset_tokens_total", "training_dataset_coverage_ratio", "training_metric{",
                 "training_gpu_energy_joules_total", "training_host_cpu_ratio", "training_energy_joules_total",
                 "sidecar_build_info", "sidecar_events_total", "sidecar_frames_rejected_total{",
                 "sidecar_sink_lag_events{", "sidecar_sink_failures_total{", "sidecar_collector_success{",
                 "sidecar_collector_duration_seconds{"):
        assert f"\n{name}" in body, name
    assert "_created" not in body


def test_what_is_wrong_with_a_gpu_is_said_when_no_run_is_there_to_say_it() -> None:
    body = Exposition(FakeViews(telemetry=make_telemetry())).serve().body.decode()
    assert {line for line in body.splitlines() if line.startswith("sidecar_gpu_")} == {
        'sidecar_gpu_lost{gpu="GPU-0000"} 0.0', 'sidecar_gpu_lost{gpu="GPU-0001"} 1.0',
        'sidecar_gpu_recovery_action{gpu="GPU-0000"} 0.0',
        'sidecar_gpu_ecc_uncorrected_errors_total{gpu="GPU-0000"} 3.0',
    }
    assert "training_" not in body


def test_a_gpu_says_whether_its_energy_counts_as_the_runs() -> None:
    run = make_snapshot(gpus=2)
    run.gpus[1]["attributed"] = False
    assert sorted(values(FakeViews(run), "training_gpu_attributed").items()) == [
        (("GPU-0000", run.run_id), 1.0), (("GPU-0001", run.run_id), 0.0)]


def test_what_was_computed_of_a_dataset_is_said_once_and_what_was_logged_of_it_too() -> None:
    run = make_snapshot()
    names = ("dataset/gsm8k/ratio", "dataset/gsm8k/coverage_percent", "dataset/mine/ratio", "train/aux_loss")
    run.metrics = {name: msgspec.structs.replace(run.metrics["train/aux_loss"], value=0.5) for name in names}
    run.computed = ["dataset/gsm8k/coverage_percent", "dataset/gsm8k/ratio"]
    logged = {labels[0] for labels in values(FakeViews(run), "training_metric")}
    assert logged == {"dataset/mine/ratio", "train/aux_loss"}
    assert ("gsm8k", run.run_id) in values(FakeViews(run), "training_dataset_share_ratio")


def test_unknown_is_absent_and_nan_is_nan() -> None:
    unknown = FakeViews(make_snapshot(loss=None, loss_state=None, eta=samples.RunSnapshot("x").eta))
    assert values(unknown, "training_loss") == {}
    assert values(unknown, "training_eta_seconds") == {}
    for state, check in (("nan", math.isnan), ("inf", lambda v: v == math.inf), ("-inf", lambda v: v == -math.inf)):
        (value,) = values(FakeViews(make_snapshot(loss=None, loss_state=state)), "training_loss").values()
        assert check(value), state


def test_counters_never_go_down_while_a_run_rewinds_and_reconnects() -> None:
    views = FakeViews()
    exposition = Exposition(views)
    seen: dict[tuple, float] = {}
    for step in (100, 250, 180, 400, 60, 401):
        views.publish(make_snapshot(step=step))
        for family in parse_openmetrics(exposition.serve(OM).body.decode()):
            for sample in family.samples if family.type == "counter" else ():
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert sample.value >= seen.get(key, 0), (key, step)
                seen[key] = sample.value
    assert seen["training_steps_total", (("run", "nanochat-d12-1"),)] == 401


def test_step_durations_are_a_cumulative_histogram() -> None:
    run = make_snapshot()
    body = Exposition(FakeViews(run)).serve().body.decode()
    (family,) = (f for f in parse_text(body) if f.name == "training_step_duration_seconds")
    buckets = [s.value for s in family.samples if s.name.endswith("_bucket")]
    count = next(s.value for s in family.samples if s.name.endswith("_count"))
    assert buckets == sorted(buckets)
    assert buckets[-1] == count == sum(run.step_histogram.counts)


def test_hostile_names_change_nothing_but_their_own_label() -> None:
    named = {name: msgspec.structs.replace(next(iter(make_snapshot().metrics.values())), value=1.0) for name in HOSTILE}
    run = make_snapshot(HOSTILE[1], project=HOSTILE[0], name=HOSTILE[3], stage=HOSTILE[4], group=HOSTILE[6],
                        metrics=0)
    run.metrics = named
    run.rejected = dict.fromkeys(HOSTILE, 1)
    telemetry = make_telemetry()
    telemetry.frames_rejected_total.update(dict.fromkeys(HOSTILE, 1))
    views = FakeViews(run, telemetry=telemetry)
    exposition = Exposition(views)
    text, openmetrics = exposition.serve().body.decode(), exposition.serve(OM).body.decode()
    for families in (parse_text(text), parse_openmetrics(openmetrics)):
        read = {family.name: family for family in families}
        assert 666 not in [sample.value for sample in read["training_loss"].samples]
        names = [sample.labels["name"] for sample in read["training_metric"].samples]
        assert len(set(names)) == len(HOSTILE)
        assert all(len(name) <= 200 and name.isprintable() for name in names)


def test_a_label_explosion_is_capped_and_counted() -> None:
    views = FakeViews(make_snapshot(metrics=100_000))
    assert len(values(views, "training_metric")) == samples.METRICS_PER_RUN_MAX
    (dropped,) = values(views, "sidecar_series_dropped_total").values()
    assert dropped == 100_000 + 4 - samples.METRICS_PER_RUN_MAX  # Four others; train/loss has a family of its own.


def test_datasets_and_reasons_beyond_the_limit_are_summed_as_other() -> None:
    run = make_snapshot()
    one = run.dataset.mixture["fineweb-edu"]
    run.dataset.mixture = {f"d{i}": one for i in range(500)}
    run.rejected = {f"r{i}": 2 for i in range(300)}
    views = FakeViews(run)
    tokens = values(views, "training_dataset_tokens_total")
    assert len(tokens) == samples.DATASETS_PER_RUN_MAX + 1
    assert sum(tokens.values()) == 500 * one.tokens_total
    assert sum(values(views, "training_values_rejected_total").values()) == 600


def test_what_vanished_is_not_exported() -> None:
    views = FakeViews(make_snapshot(ranks=4, gpus=4))
    exposition = Exposition(views)
    exposition.serve()
    views.publish(make_snapshot(ranks=3, gpus=2))
    body = exposition.serve().body.decode()
    assert 'rank="3"' not in body
    assert "GPU-0003" not in body
    assert "GPU-0001" in body


def test_an_ended_run_is_held_for_a_while_then_disappears_but_the_sidecar_stays() -> None:
    now = [1_000.0]
    views = FakeViews(make_snapshot(state="finished"))
    exposition = Exposition(views, clock=lambda: now[0])
    for passed, held in ((0, True), (HOLD_SECONDS - 1, True), (HOLD_SECONDS + 1, False)):
        now[0] = 1_000.0 + passed
        views.version += 1
        body = exposition.serve().body.decode()
        assert ("training_loss{" in body) is held, passed
        assert "sidecar_events_total 12840.0" in body
        assert "training_gpu_" not in body


def test_each_version_is_rendered_once_per_format() -> None:
    views = FakeViews(make_snapshot())
    exposition = Exposition(views)
    for _ in range(10):
        exposition.serve()
        exposition.serve("", "gzip")
        exposition.serve(OM)
    assert exposition.renders_total == 2
    views.publish(make_snapshot(step=12_841))
    assert b"training_step{run=\"nanochat-d12-1\"} 12841.0" in exposition.serve().body
    assert exposition.renders_total == 3
    assert exposition.scrapes_total == 31


def test_a_hundred_scrapers_at_once_cost_one_rendering() -> None:
    views = FakeViews(make_snapshot(ranks=64, gpus=8))
    exposition = Exposition(views)
    with ThreadPoolExecutor(100) as pool:
        bodies = set(pool.map(lambda _: exposition.serve().body, range(100)))
    assert len(bodies) == exposition.renders_total == 1
    assert exposition.ready() is not None
    views.publish(make_snapshot(step=1))
    assert exposition.ready() is None


def test_gzip_only_for_who_asks() -> None:
    client = Client(FakeViews(make_snapshot()))
    plain = client.get("/metrics", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    zipped = Exposition(client.views).serve("", "deflate, gzip;q=1.0")
    assert gzip.decompress(zipped.body) == plain.content
    assert client.get("/metrics", headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    assert not accepts_gzip("gzip;q=0, br")


@pytest.mark.parametrize(("accept", "kind"), [
    ("", TEXT), ("*/*", TEXT), ("text/html", TEXT), ("text/plain;version=0.0.4", TEXT), (OM, OPENMETRICS),
    ("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
     "text/plain;version=0.0.4;q=0.3,*/*;q=0.2", OPENMETRICS),
    (f"{OM};q=0.2, text/plain;q=0.8", TEXT), (f"{OM};q=0", TEXT), (f"{OM};q=x", TEXT),
    ("application/openmetrics-text; version=\r\nx", OPENMETRICS),
])
def test_the_format_follows_the_accept_header(accept: str, kind: str) -> None:
    assert negotiate(accept) == kind


def test_what_never_happened_is_known_to_be_zero() -> None:
    views = FakeViews(telemetry=Telemetry())
    assert values(views, "sidecar_frames_rejected_total") == {(reason,): 0 for reason in REJECTION_REASONS}
    assert values(views, "sidecar_events_lost_total") == {(reason,): 0 for reason in LOSS_REASONS}
    assert values(views, "sidecar_journal_bytes") == {}  # Not measured yet.


def test_every_reason_that_the_code_gives_is_in_its_table(repository: Path) -> None:
    files = ("intake.py", "followed.py", "pipeline.py", "service.py")
    code = "\n".join((repository / "sidecar" / name).read_text() for name in files)
    rejected = re.findall(r'(?:_reject\(|frames_rejected_total\[)"(\w+)"', code)
    lost = re.findall(r'(?:LOSS_REASON = |events_lost_total\[)"(\w+)"', code)
    assert set(rejected) | {"not_this_protocol", "wrong_version"} == set(REJECTION_REASONS)
    assert set(lost) == set(LOSS_REASONS)
