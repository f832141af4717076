"""Series in bounded memory that never lose an extreme."""

import math
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.history import BUCKETS_MAX, History
from sidecar.rows import Row

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def row(step: int | None, metrics: dict[str, Any], *, rank: int = 0, kind: str = "step",
        at: float | None = None) -> Row:
    return Row("r", rank, 0, step, float(step or 0) if at is None else at, kind, metrics)


def filled(values: list[float], **options: int) -> History:
    history = History(**options)
    for step, value in enumerate(values):
        history.add(row(step, {"m": value}))
    return history


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20_000), st.data())
def test_a_single_spike_survives_any_thinning_at_its_place(size: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, size - 1))
    points = data.draw(st.integers(1, 700))
    values = [1.0] * size
    values[at] = 1e6
    answer = filled(values, buckets_max=256).query(["m"], points)
    series = answer["series"]["m"]
    assert len(answer["x"]) <= points
    assert max(series["max"]) == 1e6
    assert size == 1 or min(series["min"]) == 1.0
    place = series["max"].index(1e6)
    before = answer["x"][place - 1] if place else -1
    assert before < at <= answer["x"][place]


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=3_000), st.integers(2, 64), st.integers(1, 100))
def test_extremes_and_mean_are_those_of_the_values(values: list[float], buckets: int, points: int) -> None:
    series = filled(values, buckets_max=buckets).query(["m"], points)["series"]["m"]
    assert max(series["max"]) == max(values)
    assert min(series["min"]) == min(values)
    for low, mean, high in zip(series["min"], series["values"], series["max"], strict=True):
        assert low <= mean <= high


@given(st.lists(finite, min_size=1, max_size=200))
def test_few_points_come_back_exactly(values: list[float]) -> None:
    answer = filled(values).query(["m"], 500)
    assert answer["x"] == list(range(len(values)))
    assert answer["series"]["m"] == {"values": values, "min": values, "max": values, "states": None}


def test_memory_is_bounded_however_long_the_run() -> None:
    history = filled([float(i) for i in range(50_000)])
    history.names()
    series = history._series["m"]
    assert len(series.count) <= BUCKETS_MAX
    assert sum(series.count) == 50_000
    assert history.query(["m"], 500)["x"][-1] == 49_999


def test_the_number_of_series_is_bounded_and_what_is_beyond_is_counted() -> None:
    history = History(series_max=10)
    history.add(row(1, {f"m{i}": 1.0 for i in range(25)}))
    assert len(history.names()) == 10
    assert history.values_dropped_total == 15


def test_many_series_share_the_memory() -> None:
    history = History(buckets_total=10_000)
    for step in range(400):
        history.add(row(step, {f"m{i}": float(step) for i in range(100)}))
    history.names()
    assert sum(len(series.count) for series in history._series.values()) <= 100 * 128
    assert max(history.query(["m7"], 500)["series"]["m7"]["max"]) == 399


def test_what_is_not_finite_is_null_with_its_state() -> None:
    answer = filled([1.0, math.nan, math.inf, -math.inf, 2.0]).query(["m"])["series"]["m"]
    assert answer["values"] == [1.0, None, None, None, 2.0]
    assert answer["states"] == [None, "nan", "inf", "-inf", None]


def test_a_nan_is_still_seen_after_thinning() -> None:
    values = [1.0] * 10_000
    values[5_000] = math.nan
    assert "nan" in filled(values, buckets_max=64).query(["m"], 20)["series"]["m"]["states"]


def test_only_numbers_are_kept() -> None:
    history = History()
    history.add(row(1, {"a": "text", "b": True, "c": None, "d": [1], "e": {"edges": []}, "f": 3, "g": 10**400}))
    assert history.names() == ["f", "g"]
    assert history.query(["g"])["series"]["g"]["states"] == ["inf"]


def test_series_of_different_pace_share_one_axis() -> None:
    history = History()
    for step in range(10):
        history.add(row(step, {"often": 1.0} | ({"seldom": 2.0} if step % 5 == 0 else {})))
    answer = history.query(["often", "seldom", "unknown"])
    assert answer["x"] == list(range(10))
    assert answer["series"]["seldom"]["values"] == [2.0, None, None, None, None, 2.0, None, None, None, None]
    assert "unknown" not in answer["series"]


@pytest.mark.parametrize("seen", [math.inf, math.nan, 10**400])
def test_tokens_that_are_no_place_leave_the_axis_as_it_was(seen: float) -> None:
    history = History()
    for step in range(1_000):
        history.add(row(step, {"train/num_input_tokens_seen": seen if step == 500 else step, "a": 1.0}))
    asked = history.query(["a"], x="tokens", points=10)
    assert (asked["x"][-1], sum(asked["series"]["a"]["values"])) == (999, len(asked["x"]))


def test_the_axis_can_be_tokens_or_time() -> None:
    history = History()
    for step in range(1, 5):
        seen = {"train/num_input_tokens_seen": step * 1_000, "train/tokens_per_second": 5.0}
        history.add(row(step, seen, kind="derived", at=1e9 + step / 2))
    assert history.query(["train/tokens_per_second"], x="tokens")["x"] == [1_000, 2_000, 3_000, 4_000]
    assert history.query(["train/tokens_per_second"], x="time")["x"] == [1e9 + 0.5, 1e9 + 1, 1e9 + 1.5, 1e9 + 2]
    with pytest.raises(ValueError, match="unknown axis"):
        history.query(["x"], x="colour")  # type: ignore[arg-type]


def test_the_joined_value_makes_the_line_when_there_is_one() -> None:
    history = History()
    for step in range(3):
        for rank in (1, 0):
            history.add(row(step, {"train/loss": 1.0 + rank}, rank=rank))
        history.add(row(step, {"train/loss": 1.5}, kind="derived"))
    assert history.query(["train/loss"])["series"]["train/loss"]["values"] == [1.5, 1.5, 1.5]


def test_another_rank_s_spike_widens_the_band_at_its_step() -> None:
    history = History()
    for step in range(5):
        for rank in range(3):
            history.add(row(step, {"aux": 9.0 if (rank, step) == (2, 3) else 1.0}, rank=rank))
        history.names()
    series = history.query(["aux"])["series"]["aux"]
    assert series["values"] == [1.0] * 5
    assert series["max"] == [1.0, 1.0, 1.0, 9.0, 1.0]


def test_a_resumed_run_that_repeats_steps_stays_in_order() -> None:
    history = History()
    for step in [*range(10), *range(5, 12)]:
        history.add(row(step, {"m": float(step)}))
    answer = history.query(["m"])
    assert answer["x"] == list(range(12))
    assert answer["series"]["m"]["values"] == [float(i) for i in range(12)]


@pytest.mark.parametrize("points", [500, 40])
def test_steps_done_again_show_the_values_of_the_last_time_and_the_extremes_of_all(points: int) -> None:
    """A run that diverged and was taken back to a checkpoint: the mean of both attempts is a loss that never was."""
    history = History()
    for step in [*range(100)]:
        history.add(row(step, {"m": 50.0 if step >= 60 else 5.0}))
    for step in [*range(60, 80)]:
        history.add(row(step, {"m": 4.0}))
    answer = history.query(["m"], points)
    shown = {x: at for at, x in enumerate(answer["x"])}
    series = answer["series"]["m"]
    assert [series["values"][shown[step]] for step in (59, 79, 99)] == [5.0, 4.0, 50.0]
    assert (series["min"][shown[79]], series["max"][shown[79]]) == (4.0, 50.0)


def test_readers_on_other_threads_see_whole_series() -> None:
    history = History(buckets_max=64)
    errors: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                answer = history.query(["m"], 100)
                assert all(len(column) == len(answer["x"]) for name in answer["series"]
                           for column in answer["series"][name].values() if column)
            except Exception as error:  # noqa: BLE001 - reported by the assertion below.
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(20_000):
        history.add(row(step, {"m": float(step)}))
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_stored_history_goes_on_exactly_like_one_that_was_never_stored() -> None:
    rows = [row(step, {"m": float(step % 17), "n": math.nan if step % 5 else 1.0}) for step in range(3000)]
    whole, first = History(buckets_max=64), History(buckets_max=64)
    for each in rows[:1700]:
        whole.add(each)
        first.add(each)
    second = History.load(first.dump(), buckets_max=64)
    for each in rows[1700:]:
        whole.add(each)
        second.add(each)
    whole.names()
    assert second.query(["m", "n"], 100) == whole.query(["m", "n"], 100)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "ab", "abc"]), st.floats(width=32) | st.integers() | st.none()),
                min_size=1, max_size=300), st.integers(2, 32), st.integers(1, 7))
def test_rows_taken_all_at_once_make_the_series_that_one_by_one_they_make(
    shapes: list[tuple[str, Any]], buckets: int, ranks: int
) -> None:
    """What is shared by the columns of a batch must not depend on where batches end, nor on who else reports."""
    rows = [row(at, dict.fromkeys(names, value)) for at, (names, value) in enumerate(shapes)]
    together, apart = History(buckets_max=buckets), History(buckets_max=buckets)
    for own in rows:
        together.extend([own, *(row(own.step, {"z": 1.0}, rank=rank) for rank in range(1, ranks))])
    for own in rows:
        apart.add(own)
        apart.names()
    for axis in ("step", "time"):
        expected = apart.query(list("abc"), 100, axis)
        assert str(together.query(list("abc"), 100, axis)) == str(expected)


def test_every_other_rank_widens_the_band_where_it_was() -> None:
    history = History()
    history.extend([row(step, {"m": 5.0}) for step in range(8)])
    history.extend([row(step, {"m": float(rank * step)}, rank=rank) for rank in (1, 2, 3) for step in range(8)])
    series = history.query(["m"])["series"]["m"]
    assert series["values"] == [5.0] * 8
    assert series["min"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    assert series["max"] == [5.0, 5.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0]
