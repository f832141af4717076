"""Loss, smoothing, perplexity, spikes; epochs and progress."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import wire
from sidecar.derive.anomalies import push
from sidecar.derive.smoothing import DECAY, perplexity, smooth
from sidecar.derive.snapshot import snapshot
from sidecar.metrics import CORE_NAMES
from sidecar.state import RunState, Statistic
from tests.derive.stream import Process, derived, projected

FACTS = {"flops_per_token": 1e6, "peak_flops": 1e12}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50))
def test_the_smoothed_loss_has_its_closed_form_and_starts_at_the_first_loss(losses: list[float]) -> None:
    state = RunState("r")
    values = [smooth(state, loss) for loss in losses]
    assert values[0] == pytest.approx(losses[0], abs=1e-9)
    n = len(losses)
    weighted = sum(DECAY ** (n - 1 - i) * loss for i, loss in enumerate(losses))
    assert values[-1] == pytest.approx(weighted * (1 - DECAY) / (1 - DECAY**n), abs=1e-9)


def test_a_loss_that_is_not_finite_leaves_the_smoothed_loss_as_it_was() -> None:
    state = RunState("r")
    smooth(state, 2.0)
    assert smooth(state, math.nan) == smooth(state, math.inf) == 2.0


@pytest.mark.parametrize(
    ("stage", "known"), [("sft", True), (None, True), ("dpo", False), ("ppo", False), ("rl", False)]
)
def test_only_a_likelihood_has_a_perplexity(stage: str | None, known: bool) -> None:
    p = Process()
    records = [p.step(1, loss=0.5), p.record(wire.Log, step=1, metrics={"val/loss": 0.25})]
    projector, rows = projected(records, p.hello(stage=stage))
    shown = snapshot(projector.state, now_ns=p.wall_ns)
    found = "train/perplexity" in derived(rows)[1], shown.perplexity is not None, "perplexity" in shown.val
    assert found == (known, known, known)


def test_perplexity_is_infinite_where_a_double_overflows_and_nan_for_nan() -> None:
    assert perplexity(2.0) == math.exp(2.0)
    assert perplexity(710.0) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))
    assert perplexity(-math.inf) == 0.0


def test_the_twelve_names_of_every_stage_are_exactly_what_step_and_derived_rows_give_together() -> None:
    p = Process()
    records = [p.step(i, 0.1, loss=2.0, lr=0.1, grad_norm=1.0, tokens=64, samples=4, epoch=i / 20)
               for i in range(1, 11)]
    _, rows = projected(records, p.hello(total_steps=100, model_facts=FACTS))
    given_and_derived = set(records[-1].event.metrics) | set(derived(rows)[10])
    assert set(CORE_NAMES) == {name for name in given_and_derived if name in CORE_NAMES}
    assert len(CORE_NAMES) == 12


def test_time_to_go_is_absent_until_five_steps_and_right_at_half_time() -> None:
    p = Process()
    _, rows = projected([p.step(i, 2.0) for i in range(1, 51)], p.hello(total_steps=100))
    shown = derived(rows)
    assert "train/eta_minutes" not in shown[4]
    assert "train/eta_minutes" in shown[5]
    assert shown[50]["train/eta_minutes"] == pytest.approx(50 * 2.0 / 60)
    assert shown[50]["progress/eta_hours"] == shown[50]["progress/eta_minutes"] / 60
    assert shown[50]["progress/step_percent"] == 50.0


def test_steps_numbered_from_zero_end_with_nothing_to_go() -> None:
    p = Process()
    _, rows = projected([p.step(i) for i in range(100)], p.hello(total_steps=100))
    assert derived(rows)[99]["train/eta_minutes"] == 0.0


def test_no_total_no_percent_and_no_time_to_go() -> None:
    p = Process()
    _, rows = projected([p.step(i) for i in range(10)], p.hello())
    assert not {"progress/step_percent", "train/eta_minutes", "progress/eta_hours"} & derived(rows)[9].keys()


def test_percent_never_exceeds_a_hundred() -> None:
    p = Process()
    _, rows = projected([p.step(i) for i in range(30)], p.hello(total_steps=10))
    assert derived(rows)[29]["progress/step_percent"] == 100.0


def test_epoch_time_restarts_with_the_epoch_and_its_last_step_still_belongs_to_it() -> None:
    p = Process()
    records = [p.step(i, 6.0, epoch=i / 10) for i in range(1, 25)]
    _, rows = projected(records, p.hello())
    minutes = {step: metrics["system/epoch_time"] for step, metrics in derived(rows).items()}
    assert minutes[10] == pytest.approx(0.9)  # The first step's own duration is not known.
    assert minutes[11] == pytest.approx(0.1)
    assert minutes[20] == pytest.approx(1.0)
    assert minutes[21] == pytest.approx(0.1)
    percent = {step: metrics.get("progress/epoch_percent") for step, metrics in derived(rows).items()}
    assert percent[10] == pytest.approx(100.0)
    assert percent[11] == pytest.approx(10.0)


def test_epoch_time_has_the_first_step_where_steps_are_numbered_anew_in_each_epoch() -> None:
    p = Process()
    _, rows = projected([p.step(i, 6.0, epoch=epoch) for epoch in range(3) for i in range(10)], p.hello())
    times = [row.metrics["system/epoch_time"] for row in rows if row.kind == "derived" and row.step == 9]
    assert times[1:] == [pytest.approx(1.0)] * 2


def test_epoch_time_goes_on_in_the_process_that_resumes_the_epoch() -> None:
    first, second = Process(session=1), Process(session=2, at=900.0, mono=7.0)
    records = [first.step(i, 6.0, epoch=i / 100) for i in range(1, 12)]
    records += [second.step(i, 6.0, epoch=i / 100) for i in range(12, 23)]
    _, rows = projected(records, first.hello(), second.hello())
    # Ten steps after the first one, then eleven: the second process' first step is taken to be like the others.
    assert derived(rows)[22]["system/epoch_time"] == pytest.approx(2.1)


def test_whole_epochs_change_when_their_number_does() -> None:
    p = Process()
    records = [p.step(i, 6.0, epoch=i // 10) for i in range(30)]
    _, rows = projected(records, p.hello())
    shown = derived(rows)
    assert shown[9]["system/epoch_time"] == pytest.approx(0.9)
    assert shown[10]["system/epoch_time"] == pytest.approx(0.1)
    assert "progress/epoch_percent" not in shown[15]


def test_an_epoch_is_derived_from_steps_per_epoch_or_dataset_sizes() -> None:
    p = Process()
    _, rows = projected([p.step(5)], p.hello(config={"steps_per_epoch": 10}))
    assert derived(rows)[5]["train/epoch"] == 0.5
    p = Process()
    records = [p.step(i, datasets={"a": (5, 0), "b": (5, 0)}) for i in range(4)]
    _, rows = projected(records, p.hello(model_facts={"dataset_sizes": {"a": 10, "b": 30}}))
    assert derived(rows)[3]["train/epoch"] == 1.0


def test_what_the_trainer_sends_itself_is_not_derived_again() -> None:
    p = Process()
    records = [p.raw_step(i, {"train/tokens_per_second": 1.0, "train/num_tokens": 10}) for i in range(5)]
    projector, rows = projected(records, p.hello())
    assert "train/tokens_per_second" not in derived(rows)[4]
    assert derived(rows)[4]["performance/tokens_per_second"] == 10.0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_alert_and_not_an_error(loss: float) -> None:
    p = Process()
    projector, rows = projected([p.step(1, loss=1.0), p.step(2, loss=loss), p.step(3, loss=loss)], p.hello())
    alert = projector.state.alerts[0]
    assert (alert.name, alert.severity, alert.step, alert.count) == ("loss_nonfinite", "critical", 3, 2)
    assert derived(rows)[3]["train/loss_ema"] == pytest.approx(1.0)


def noisy(p: Process, count: int, **last: float) -> list:
    records = [p.step(i, loss=3.0 + 0.01 * ((i * 7) % 5), grad_norm=1.0 + 0.01 * ((i * 3) % 7)) for i in range(count)]
    return [*records, p.step(count, **{"loss": 3.0, "grad_norm": 1.0, **last})]


def alerts(records: list) -> list[str]:
    return [alert.name for alert in projected(records, Process().hello())[0].state.alerts]


def test_a_spike_of_the_loss_is_an_alert() -> None:
    assert alerts(noisy(Process(), 200, loss=4.0)) == ["loss_spike"]
    assert alerts(noisy(Process(), 200, loss=3.1)) == []  # Above six sigma, but less than 5 % above the median.


def test_an_exploding_gradient_is_an_alert() -> None:
    assert alerts(noisy(Process(), 200, grad_norm=1e4)) == ["grad_explosion"]
    assert alerts(noisy(Process(), 200, grad_norm=1.06)) == []
    assert alerts(noisy(Process(), 200, grad_norm=math.inf)) == ["grad_nonfinite"]


def test_a_perfectly_steady_run_alarms_on_nothing() -> None:
    p = Process()
    assert alerts([p.step(i, loss=2.0, grad_norm=1.0) for i in range(300)]) == []


def test_a_steady_negative_loss_alarms_on_nothing() -> None:
    p = Process()
    projector, _ = projected([p.step(i, loss=-1.0) for i in range(60)] + [p.step(60, loss=-0.9999)], p.hello())
    assert projector.state.alerts == []
    projector.feed(p.step(61, loss=-0.5))
    assert [alert.name for alert in projector.state.alerts] == ["loss_spike"]


@pytest.mark.parametrize("value", [1e308, -1e308, 1e200])
def test_values_whose_sums_would_overflow_do_not_stop_the_fold(value: float) -> None:
    p = Process()
    records = [p.step(i, loss=value, grad_norm=value) for i in range(130)]
    projector, rows = projected(records, p.hello())
    assert max(derived(rows)) == 129
    assert projector.state.loss == value


def test_steps_replayed_after_a_restart_trip_no_rule() -> None:
    first, second = Process(session=1), Process(session=2, at=900.0)
    records = [first.step(i, loss=9.0 - i / 50) for i in range(300)]
    records += [second.step(i, loss=9.0 - i / 50) for i in range(10, 300)]
    projector, _ = projected(records, first.hello(), second.hello())
    assert projector.state.alerts == []


@given(st.lists(st.floats(0, 1e6), max_size=400))
def test_running_sums_stay_with_their_window(values: list[float]) -> None:
    series = Statistic()
    for value in values:
        push(series, value)
    assert sorted(series.values) == sorted(values[-128:])
    assert series.total == pytest.approx(math.fsum(series.values), rel=1e-9, abs=1e-4)
