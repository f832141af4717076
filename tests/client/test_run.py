"""The promises of the client: it never raises, never blocks, and says what it could not take."""

import decimal
import errno
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidecar
from sidecar import ring, wire
from sidecar.client import emitter
from sidecar.client.run import Run

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def events(run: Run) -> list[wire.AnyEvent]:
    records, _ = run._emitter.ring.read(
        run._emitter.ring.tail, run._emitter.ring.tail_seq, bytes_max=1 << 26, events_max=100_000
    )
    return [wire.decode_event(record) for record in records]


def of_kind(run: Run, kind: type) -> list[Any]:
    return [event for event in events(run) if isinstance(event, kind)]


def test_a_step_carries_its_numbers_under_their_catalogue_names(run: Run) -> None:
    run.step(3, loss=1.5, learning_rate=0.1, grad_norm=2.0, tokens=10, samples=2, epoch=0.5, metrics={"train/aux": 1})
    (event,) = of_kind(run, wire.Step)
    assert event.step == 3
    assert event.metrics == {
        "train/loss": 1.5, "train/learning_rate": 0.1, "train/grad_norm": 2.0, "train/num_tokens": 10,
        "train/num_samples": 2, "train/epoch": 0.5, "train/aux": 1,
    }  # fmt: skip


def test_numpy_scalars_and_cpu_tensors_arrive_as_numbers(run: Run) -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    run.step(
        numpy.int64(4), loss=torch.tensor(2.5, requires_grad=True), grad_norm=torch.tensor(1.0, dtype=torch.bfloat16),
        tokens=numpy.int32(7), metrics={"a": numpy.float32(0.5), "b": numpy.array([1, 2]), "c": torch.tensor([3])},
    )  # fmt: skip
    (event,) = of_kind(run, wire.Step)
    assert event.step == 4
    assert event.metrics == {
        "train/loss": 2.5, "train/grad_norm": 1.0, "train/num_tokens": 7, "a": 0.5, "b": [1, 2], "c": 3,
    }  # fmt: skip


def test_nan_and_infinity_arrive_as_such(run: Run) -> None:
    run.step(1, loss=math.nan, metrics={"inf": math.inf, "minus": -math.inf})
    metrics = of_kind(run, wire.Step)[0].metrics
    assert math.isnan(metrics["train/loss"])
    assert metrics["inf"] == math.inf
    assert metrics["minus"] == -math.inf


def test_a_value_without_a_form_is_dropped_and_counted_and_the_rest_arrives(run: Run) -> None:
    run.step(1, loss=1.0, metrics={"bad": object(), "huge": 10**400, "dec": decimal.Decimal("1.5")})
    run.step(2, loss=2.0, metrics={5: 1.0, "good": 1})
    first, second = of_kind(run, wire.Step)
    assert first.metrics["train/loss"] == 1.0
    assert "bad" not in first.metrics
    assert second.metrics == {"train/loss": 2.0, "good": 1}
    assert run.rejected["unsupported_type"] >= 1
    assert run.rejected["name_not_string"] == 1


@pytest.mark.parametrize("step", [None, -1, 1.5, "3", 2**60, math.nan, object(), True])
def test_an_impossible_step_is_counted_not_raised(run: Run, step: Any) -> None:
    run.step(step, loss=1.0)
    assert of_kind(run, wire.Step) == []
    assert run.rejected == {"bad_step": 1}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
    | st.decimals() | st.dates() | st.builds(object) | st.just(print),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=anything, loss=anything, metrics=anything, text=anything)
def test_no_python_object_makes_any_call_raise(run: Run, step: Any, loss: Any, metrics: Any, text: Any) -> None:
    run.step(step, loss=loss, tokens=text, metrics=metrics if isinstance(metrics, dict) else {"x": metrics})
    run.log(metrics, step=step)
    run.text(text, loss, step=step)
    run.histogram("h", metrics, step=step)
    run.dataset(text, samples=loss)
    run.checkpoint(step, seconds=loss, name=text)
    run.config(metrics if isinstance(metrics, dict) else {})
    with run.phase(text):
        pass


class Hostile:
    """Whatever is asked of it, it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError("str")

    __float__ = __int__ = __index__ = __bool__ = __iter__ = __len__ = __eq__ = __repr__ = __str__  # type: ignore[assignment]
    __hash__ = object.__hash__


class HostileMap(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("items")

    keys = __iter__ = items


class Name(str):
    """A text that does not like to be looked at."""

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise RuntimeError("encode")


BAD = {
    "hostile": Hostile, "map": lambda: HostileMap(a=1), "name": lambda: Name("x"), "class": lambda: float,
    "function": lambda: len, "iterator": lambda: iter([1]), "range": lambda: range(3), "complex": lambda: 1j,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_an_object_that_raises_whatever_is_asked_of_it_is_counted_and_no_more(run: Run, kind: str) -> None:
    bad: Any = BAD[kind]()
    run.step(bad, loss=1.0)
    run.step(1, loss=bad, metrics={"good": 1.0})
    run.step(2, metrics=bad)
    run.log(bad)
    run.log({"x": bad, "good": 2.0})
    run.text(bad, bad)
    run.histogram(bad, bad)
    run.dataset(bad, samples=bad, tokens=bad)
    run.dataset_loss(bad, bad, bad)
    run.checkpoint(bad, seconds=bad, bytes=bad, name=bad)
    run.config({"x": bad})
    run.facts({"x": bad})
    run.watch(bad, bad)
    run.time_optimizer(bad)
    with run.phase(bad):
        pass
    run.step(3, loss=3.0)
    assert run.rejected
    steps = {event.step: event.metrics for event in of_kind(run, wire.Step)}
    assert (steps[1]["good"], steps[3]["train/loss"]) == (1.0, 3.0)
    assert any(event.metrics.get("good") == 2.0 for event in of_kind(run, wire.Log))


def test_a_step_that_is_a_tensor_goes_back_or_is_repeated_is_taken_as_it_is(run: Run) -> None:
    torch = pytest.importorskip("torch")
    for step in (torch.tensor(5), 5, 3, torch.tensor([7])):
        run.step(step, loss=1.0)
    run.step(torch.empty((), device="meta"), loss=1.0)
    assert [event.step for event in of_kind(run, wire.Step)] == [5, 5, 3, 7]
    assert run.rejected == {"bad_step": 1}


def test_a_call_from_a_finaliser_while_a_call_is_under_way_is_kept(run: Run) -> None:
    class Leaving:
        def __del__(self) -> None:
            run.log({"from": "finaliser"})

    with run._emitter.lock:
        Leaving()
    run._emitter.housekeeping()
    assert [event.metrics for event in of_kind(run, wire.Log)] == [{"from": "finaliser"}]


def test_a_finaliser_that_runs_after_the_end_is_counted(run: Run) -> None:
    run.finish(timeout_seconds=0.01)

    class Leaving:
        def __del__(self) -> None:
            run.log({"x": 1}), run.step(1), run.text("a", "b"), run.histogram("h", [1.0])

    Leaving()
    assert run.rejected["after_finish"] == 4


def test_a_worker_of_a_data_loader_can_call_everything_and_disturbs_nothing(run: Run) -> None:
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            run.step(100 + index, loss=1.0)
            run.log({"x": index})
            run.dataset("a", samples=1)
            return run.rejected.get("in_forked_child", 0)

    loader = torch.utils.data.DataLoader(Rows(), num_workers=1, multiprocessing_context="fork")
    for step, counted in enumerate(run.data(loader)):
        assert counted.item() == 2 * (step + 1)
        run.step(step)
    assert [event.step for event in of_kind(run, wire.Step)] == [0, 1, 2, 3]
    assert run.rejected == {}


def test_everything_that_was_emitted_can_be_decoded_by_the_sidecar(run: Run) -> None:
    """Strict decoding of all records is what events() does; here with the values most likely to slip through."""
    run.log({"bytes": b"x", "set": {1}, "nested": {"a": [1, {2: 3}]}, "bool": True, "none": None, "text": "é"})
    (event,) = of_kind(run, wire.Log)
    assert event.metrics == {"nested": {"a": [1, {"2": 3}]}, "bool": True, "none": None, "text": "é"}


def test_phases_of_a_step_ride_on_it_and_nested_time_counts_once(run: Run) -> None:
    with run.phase("forward"), run.phase("data_wait"):
        pass
    run.step(1)
    run.step(2)
    first, second = of_kind(run, wire.Step)
    assert set(first.phases) == {"forward", "data_wait"}
    assert all(seconds >= 0 for seconds in first.phases.values())
    assert second.phases == {}


def test_a_long_phase_is_announced_when_it_begins(run: Run) -> None:
    run.step(1)
    with run.phase("evaluation"), run.phase("forward"):
        assert [event.name for event in of_kind(run, wire.PhaseEntered)] == ["evaluation"]
    run.step(2)
    assert [(event.name, event.step) for event in of_kind(run, wire.PhaseExited)] == [("evaluation", 1)]
    assert of_kind(run, wire.Step)[1].phases == {}, "a forward inside an evaluation is not training time"


def test_dataset_consumption_adds_up_until_the_step_ends(run: Run) -> None:
    run.dataset("a", samples=1, tokens=10)
    run.dataset("a", samples=2, tokens=20)
    run.dataset("b", samples=5)
    run.step(1)
    assert of_kind(run, wire.Step)[0].datasets == {"a": (3, 30), "b": (5, 0)}


def test_a_large_text_travels_in_parts_and_a_huge_one_is_counted(run: Run) -> None:
    from sidecar.decoding import decode

    text = "x" * 300_000
    run.text("long", text)
    run.text("huge", "x" * 2_000_000)
    parts: dict[int, list[bytes]] = {}
    records, _ = run._emitter.ring.read(0, 0, bytes_max=1 << 26, events_max=1000)
    assert max(map(len, records)) <= wire.FRAME_BYTES_MAX
    joined = [decode(record, 1, parts) for record in records]
    assert [event.text for event in joined if isinstance(event, wire.Text)] == [text]
    assert run.rejected == {"record_too_large": 1}


def test_a_histogram_sends_bins_only(run: Run) -> None:
    torch = pytest.importorskip("torch")
    values = torch.linspace(-1, 1, 1000)
    run.histogram("w", values)
    run.histogram("w", [1.0, 2.0, math.nan])
    run.histogram("w", [])
    tensor, listed = of_kind(run, wire.Histogram)
    assert len(tensor.counts) == 64
    assert len(tensor.edges) == 65
    assert sum(tensor.counts) == 1000
    assert sum(listed.counts) == 2
    assert run.rejected == {"bad_histogram": 1}


def test_calls_from_many_threads_all_arrive(run: Run) -> None:
    def work(base: int) -> None:
        for index in range(500):
            run.log({"v": base + index})

    threads = [threading.Thread(target=work, args=(base,)) for base in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run._emitter.housekeeping()
    assert sorted(event.metrics["v"] for event in of_kind(run, wire.Log)) == list(range(4000))


def test_a_call_from_a_signal_handler_while_the_lock_is_held_is_kept(run: Run) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: run.log({"from": "handler"}))
    try:
        with run._emitter.lock:
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    run._emitter.housekeeping()
    assert [event.metrics for event in of_kind(run, wire.Log)] == [{"from": "handler"}]


def test_a_step_that_met_a_held_lock_keeps_its_place_before_those_after_it(run: Run) -> None:
    run.step(1)
    with run._emitter.lock:
        run.step(2)
        run.step(3)
    run.step(4)
    with run._emitter.lock:
        run.step(5)
    run.text("long", "x" * 300_000)  # Goes another way into the ring than a step.
    assert [event.step for event in events(run)[:5]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("full", ["the first place", "every place"])
def test_without_space_for_the_ring_it_goes_to_the_next_place_and_at_last_into_plain_memory(
    full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, create = [tmp_path / "shm", tmp_path / "tmp"], ring.create

    def create_where_there_is_space(directory: Path, *arguments: Any, **options: Any) -> ring.Ring:
        if full == "every place" or directory == places[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(directory, *arguments, **options)

    monkeypatch.setattr(emitter, "ring_directories", lambda: places)
    monkeypatch.setattr(ring, "create", create_where_there_is_space)
    made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
    made.step(1, loss=2.0)
    assert [event.step for event in of_kind(made, wire.Step)] == [1]
    path = made._emitter.ring.path
    assert (path is None) if full == "every place" else (path is not None and path.parent == places[1])
    made.finish(timeout_seconds=0)


def test_rings_that_nobody_fetches_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Trainings that end with no sidecar beside them leave a ring each, for the next sidecar of their endpoint."""
    places = [tmp_path / "shm", tmp_path / "tmp"]
    monkeypatch.setattr(emitter, "ring_directories", lambda: places)
    monkeypatch.setattr(emitter, "RINGS_MAX", 2)
    monkeypatch.setenv("SIDECAR_RING_MB", "0.1")
    for number in range(6):
        made = sidecar.init("tests", endpoint=f"ipc://{tmp_path}/nobody")
        made.step(number, loss=2.0)
        made.finish(timeout_seconds=0)
    assert [len(list(place.glob("*.ring"))) for place in places] == [2, 2], "and then plain memory"
    assert caplog.text.count("no place for a ring") == 2  # A kill -9 now loses a tail: nobody may find that out then.


def test_a_forked_child_can_call_everything_and_disturbs_nothing(run: Run) -> None:
    run.step(1)
    child = os.fork()
    if child == 0:
        run.step(2)
        run.log({"x": 1})
        run.finish(timeout_seconds=1)
        os._exit(0 if run.rejected.get("in_forked_child") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run.step(3)
    assert [event.step for event in of_kind(run, wire.Step)] == [1, 3]


def test_finish_is_idempotent_and_later_calls_are_counted(run: Run) -> None:
    run.finish(timeout_seconds=0.1)
    run.finish()
    run.step(9)
    assert run.rejected == {"after_finish": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"project": ""}, "project"),
        ({"project": "p", "name": 5}, "name"),
        ({"project": "p", "total_steps": -1}, "total_steps"),
        ({"project": "p", "sinks": "wandb"}, "sinks"),
    ],
)
def test_a_wrong_argument_to_init_says_which(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        sidecar.init(**arguments)


def test_importing_sidecar_loads_only_the_standard_library_and_the_client_only_its_two_packages() -> None:
    code = """
import sys
import sidecar
assert "zmq" not in sys.modules and "msgspec" not in sys.modules
sidecar.init
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
foreign -= {"sidecar", "zmq", "msgspec", "sitecustomize"}
foreign -= {"cython_runtime", "typing_extensions"}  # What pyzmq brings with it.
foreign = {name for name in foreign if not name.startswith("_")}
assert not foreign, foreign
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
