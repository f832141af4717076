"""What TensorBoard's own loader reads from our event files."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import wire
from sidecar.sinks import crc32c, tfevents

from .harness import Manager, Run


def load(tmp_path: Path, run_id: str = "run-1") -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(
        str(tmp_path / "tensorboard" / run_id), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}
    )
    accumulator.Reload()
    return accumulator


def points(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_steps_and_values_arrive(tmp_path: Path) -> None:
    run = Run(tmp_path, model_facts={"params": 10, "flops_per_token": 6e6, "peak_flops": 1e12})
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 30)
        manager.drain()
        assert manager.health("tensorboard").state == "ok"
    read = load(tmp_path)
    assert points(read, "train/loss") == [(step, pytest.approx(4.0 / (1 + step), rel=1e-6)) for step in range(31)]
    assert {"train/tokens_per_second", "train/mfu_percent", "train/eta_minutes"} <= set(read.Tags()["scalars"])
    assert read.Scalars("train/loss")[-1].wall_time == pytest.approx(run.now_ns / 1e9)


def test_nan_and_infinities_are_preserved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 0, nan=math.nan, high=math.inf, low=-math.inf, huge=1e300, flag=True)
        manager.drain()
    read = load(tmp_path)
    assert math.isnan(read.Scalars("nan")[0].value)
    found = [read.Scalars(tag)[0].value for tag in ("high", "low", "huge", "flag")]
    assert found == [math.inf, -math.inf, math.inf, 1.0]


def test_text_histograms_and_configuration_are_shown(tmp_path: Path) -> None:
    run = Run(tmp_path, config={"lr": 0.1, "optimizer": "adamw", "api_key": "canary", "deep": {"layers": 12}})
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 4)
        run.emit(wire.Text(run.now_ns, 0, 4, "sample/one", "once upon a time"))
        run.emit(wire.Histogram(run.now_ns, 0, 4, "weights/wte", [-1.0, 0.0, 1.0], [3.0, 5.0]))
        manager.drain()
    read = load(tmp_path)
    (text,) = read.Tensors("sample/one")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (4, "once upon a time")
    (histogram,) = read.Histograms("weights/wte")
    value = histogram.histogram_value
    assert (value.num, value.min, value.max, value.bucket_limit, value.bucket) == (8, -1, 1, [0.0, 1.0], [3.0, 5.0])
    table = read.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert "| lr | 0.1 |" in table
    assert "canary" not in table
    assert read.SummaryMetadata("sample/one").plugin_data.plugin_name == "text"


def test_hyper_parameters_are_read_by_the_hparams_plugin(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    run = Run(tmp_path, config={"lr": 0.1, "optimizer": "adamw", "bf16": True})
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 0)
        manager.drain()
    content = load(tmp_path).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["lr"].number_value == 0.1
    assert hparams["optimizer"].string_value == "adamw"
    assert hparams["bf16"].bool_value is True


def test_steps_done_again_after_a_checkpoint_replace_the_first_attempt(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 9)
        manager.drain()
        again = Run(tmp_path, session=8)
        again.now_ns = run.now_ns
        manager.manager.run_started(again.hello)
        again.steps(6, 12, **{"train/loss": 99.0})
        manager.drain()
    read = points(load(tmp_path), "train/loss")
    assert [step for step, _ in read] == list(range(13))
    assert [value for step, value in read if step >= 6] == [99.0] * 7


def test_steps_done_again_by_another_launch_replace_the_first_attempt_too(tmp_path: Path) -> None:
    """The usual way to resume: trainer and sidecar are both new."""
    run = Run(tmp_path)
    run.steps(0, 9)
    with Manager(run, "tensorboard") as manager:
        manager.drain()
    again = Run(tmp_path, session=8)
    again.now_ns = run.now_ns
    again.emit(wire.Log(run.now_ns, 0, 6, {"val/loss": 3.0}))
    again.steps(6, 12, **{"train/loss": 99.0})
    with Manager(again, "tensorboard") as manager:
        manager.drain()
    read = load(tmp_path)
    assert [step for step, _ in points(read, "train/loss")] == list(range(13))
    assert [value for step, value in points(read, "train/loss") if step >= 6] == [99.0] * 7
    assert points(read, "val/loss") == [(6, 3.0)]


def test_what_a_crash_left_beyond_the_last_commit_is_cut_off_and_comes_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    with Manager(run, "tensorboard") as manager:
        manager.drain()
    (file,) = (tmp_path / "tensorboard" / "run-1").glob("*tfevents*")
    place = tmp_path / "tensorboard" / "run-1" / "sidecar.place"
    half = msgspec.msgpack.decode(place.read_bytes())
    run.steps(10, 14)
    with Manager(run, "tensorboard") as manager:
        manager.drain()
    first, second = sorted((tmp_path / "tensorboard" / "run-1").glob("*tfevents*"))
    file.write_bytes(first.read_bytes() + second.read_bytes()[:-7])
    second.unlink()
    place.write_bytes(msgspec.msgpack.encode(half))
    with Manager(run, "tensorboard") as manager:
        manager.drain()
        assert manager.health("tensorboard").state == "ok"
    assert [step for step, _ in points(load(tmp_path), "train/loss")] == list(range(15))


def test_files_whose_place_is_unknown_are_written_anew_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.steps(0, 9)
    with Manager(run, "tensorboard") as manager:
        manager.drain()
    (tmp_path / "tensorboard" / "run-1" / "sidecar.place").write_text("{")
    run.steps(10, 12)
    with Manager(run, "tensorboard") as manager:
        manager.drain()
    assert [step for step, _ in points(load(tmp_path), "train/loss")] == list(range(13))


def test_a_validation_that_is_logged_before_its_step_ends_stays(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 4)
        run.emit(wire.Log(run.now_ns, 0, 5, {"val/loss": 2.0}))
        run.steps(5, 9)
        manager.drain()
    read = load(tmp_path)
    assert points(read, "val/loss") == [(5, 2.0)]
    assert [step for step, _ in points(read, "train/loss")] == list(range(10))


def test_a_step_of_several_ranks_is_one_point_of_what_they_come_to(tmp_path: Path) -> None:
    first, second = Run(tmp_path, world_size=2), Run(tmp_path, session=8, rank=1, world_size=2)
    for steps, reported in ((range(5), range(4)), (range(5, 10), range(4, 10))):  # The fifth in the next life only.
        with Manager(first, "tensorboard") as manager:
            for step in steps:
                first.steps(step, step, own=1.0)
                manager.drain()
            for step in reported:
                second.now_ns = first.now_ns
                second.steps(step, step, **{"train/loss": 10.0})
            manager.drain()
        assert [step for step, _ in points(load(tmp_path), "own")] == list(range(reported[-1] + 1))
    read = load(tmp_path)
    joined = [(step, pytest.approx((4.0 / (1 + step) + 10.0) / 2)) for step in range(10)]
    assert points(read, "train/loss") == joined
    assert points(read, "own") == [(step, 1.0) for step in range(10)]


def test_a_step_that_a_rank_never_reports_is_shown_when_the_run_ends(tmp_path: Path) -> None:
    first, second = Run(tmp_path, world_size=2), Run(tmp_path, session=8, rank=1, world_size=2)
    first.steps(0, 2)
    second.steps(0, 1, **{"train/loss": 10.0})
    with Manager(first, "tensorboard") as manager:
        manager.drain()
        assert [step for step, _ in points(load(tmp_path), "train/loss")] == [0, 1]
        first.finish()
        second.emit(wire.Finished(second.now_ns, 0))
        manager.drain()
    found = points(load(tmp_path), "train/loss")
    assert found == [(0, 7.0), (1, 6.0), (2, pytest.approx(4.0 / 3))]


def test_a_late_validation_row_does_not_purge_anything(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 9)
        run.emit(wire.Log(run.now_ns, 0, 5, {"val/loss": 2.0}))
        run.steps(10, 12)
        manager.drain()
    read = load(tmp_path)
    assert [step for step, _ in points(read, "train/loss")] == list(range(13))
    assert points(read, "val/loss") == [(5, 2.0)]


def test_a_restart_writes_a_new_file_and_the_run_is_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for first in (0, 5):
        run.steps(first, first + 4)
        with Manager(run, "tensorboard") as manager:
            manager.drain()
    assert len(list((tmp_path / "tensorboard" / "run-1").glob("*tfevents*"))) == 2
    assert [step for step, _ in points(load(tmp_path), "train/loss")] == list(range(10))


def test_the_host_is_in_no_file_name_and_tensorboard_is_not_imported(tmp_path: Path) -> None:
    import socket
    import subprocess
    import sys

    run = Run(tmp_path)
    with Manager(run, "tensorboard") as manager:
        run.steps(0, 1)
        manager.drain()
    for path in (tmp_path / "tensorboard").rglob("*"):
        assert socket.gethostname() not in path.name
    heavy = "{'tensorboard', 'torch', 'numpy'}"
    program = f"import sys, sidecar.sinks.tensorboard; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program]).strip() == b"[]"


@given(st.binary(max_size=200))
def test_the_checksum_is_tensorboards(data: bytes) -> None:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    assert crc32c.masked_crc(data) == masked_crc32c(data)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
                    st.floats() | st.booleans() | st.integers(), min_size=1, max_size=20),
    st.floats(0, 1e11), st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip
def test_the_fast_way_writes_the_same_bytes(metrics: dict[str, float], time: float, step: int) -> None:
    general = tfevents.summary_event(time, step, [tfevents.scalar(tag, value) for tag, value in metrics.items()])
    assert tfevents.scalars_record(time, step, metrics) == tfevents.record(general)


@pytest.mark.parametrize("value", [None, "word", [1.0], {}])
def test_the_fast_way_is_for_numbers_only(value: object) -> None:
    assert tfevents.scalars_record(0.0, 1, {"a": 1.0, "b": value}) is None
