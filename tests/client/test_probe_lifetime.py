"""What probes and timers leave behind: nothing. And what torch.compile makes of their hooks: nothing either."""

import gc
import weakref
from typing import Any

import pytest

from sidecar import wire
from sidecar.client import clipping
from sidecar.client.instruments import NoProbe
from sidecar.client.run import Run
from tests.client.test_run import of_kind

torch = pytest.importorskip("torch")


def made() -> tuple[Any, Any]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(run: Run, model: Any, optimizer: Any, steps: range) -> None:
    for step in steps:
        model(torch.ones(2, 4)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        run.step(step)


@pytest.mark.parametrize("end", ["close", "finish"])
def test_a_closed_probe_keeps_no_model_alive_though_the_script_keeps_the_probe(run: Run, end: str) -> None:
    model, optimizer = made()
    probe = run.watch(model, optimizer, every=1, histograms=True, activations=True)
    timer = run.time_optimizer(optimizer)
    train(run, model, optimizer, range(3))
    alive = [weakref.ref(model[0].weight), weakref.ref(optimizer)]
    if end == "close":
        probe.close()
        timer.remove()
    else:
        run.finish(timeout_seconds=0)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(module._forward_hooks for module in model.modules())
    del model, optimizer
    gc.collect()
    assert [each() for each in alive] == [None, None]
    assert probe.layers, "what was watched can still be asked"
    probe.sample(5)


def test_many_probes_one_after_another_leave_nothing_in_the_run(run: Run) -> None:
    for _ in range(5):
        model, optimizer = made()
        run.watch(model, optimizer).close()
        run.time_optimizer(optimizer).remove()
    assert run._instruments._closers == []
    assert clipping._listeners == []


def test_a_probe_that_cannot_be_installed_whole_leaves_no_half(run: Run) -> None:
    model, optimizer = made()
    other: Any = object()
    assert isinstance(run.watch(model, [optimizer, other], every=1, activations=True), NoProbe)
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_hooks for module in model.modules())
    assert run._instruments._closers == []
    assert run.rejected == {"bad_watch": 1}


def test_nothing_is_installed_once_the_run_has_ended(run: Run) -> None:
    model, optimizer = made()
    run.finish(timeout_seconds=0)
    assert isinstance(run.watch(model, optimizer), NoProbe)
    run.time_optimizer(optimizer).remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert run.rejected == {"bad_watch": 1, "bad_optimizer": 1}


def test_a_wrapper_that_somebody_puts_around_clipping_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    from torch.nn.utils import clip_grad

    torchs = getattr(clip_grad, clipping.PATCHED_FUNCTION)
    monkeypatch.setattr(clip_grad, clipping.PATCHED_FUNCTION, torchs)  # Put back after the test.
    probe = run.watch(*made(), every=1)

    @functools.wraps(getattr(clip_grad, clipping.PATCHED_FUNCTION))
    def theirs(*given: Any, **named: Any) -> Any:
        return None

    setattr(clip_grad, clipping.PATCHED_FUNCTION, theirs)
    probe.close()
    assert getattr(clip_grad, clipping.PATCHED_FUNCTION) is theirs


def test_an_optimizer_step_that_fails_is_not_the_time_until_the_next_one_nor_its_update(run: Run) -> None:
    model, optimizer = made()
    run.watch(model, optimizer, every=1, gradients=False, weights=False)
    run.time_optimizer(optimizer)
    train(run, model, optimizer, range(1))
    broken = optimizer.register_step_pre_hook(lambda *given: 1 / 0)  # Like a device without memory.
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    broken.remove()
    with torch.no_grad():
        model[0].weight.mul_(1000.0)  # What the script does next is not the update of the step that follows.
    run.step(1)
    with run.phase("forward"):
        pass
    train(run, model, optimizer, range(2, 3))
    assert run._open_phases.stack == []
    steps = {event.step: event for event in of_kind(run, wire.Step)}
    assert "optimizer" not in steps[1].phases
    last = [event.metrics for event in of_kind(run, wire.Log) if event.step == 2]
    assert last[0]["updates/0.weight"] < 1.0


def test_a_model_without_parameters_has_no_weights_to_speak_of(run: Run) -> None:
    probe = run.watch(torch.nn.ReLU(), every=1)
    probe.sample(1)
    assert of_kind(run, wire.Log) == []
    assert run.rejected == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of torch's own, while it compiles.
def test_a_compiled_optimizer_step_is_compiled_as_often_as_without_a_probe(run: Run) -> None:
    from torch._dynamo.utils import counters

    compiled: dict[bool, int] = {}
    for watched in (False, True):
        torch._dynamo.reset()
        counters.clear()
        model, optimizer = made()
        if watched:
            run.watch(model, optimizer, every=2)
            run.time_optimizer(optimizer)
        step = torch.compile(lambda optimizer=optimizer: optimizer.step(), backend="eager")
        for number in range(6):
            model(torch.ones(2, 4)).sum().backward()
            step()
            run.step(number)
        compiled[watched] = counters["frames"]["total"]
    assert 0 < compiled[True] <= compiled[False]
    assert run.rejected == {}


def test_clipping_and_modules_compile_whole_beside_a_probe(run: Run) -> None:
    torch._dynamo.reset()
    model, optimizer = made()
    run.watch(model, optimizer, every=1, activations=True)
    forward = torch.compile(model, fullgraph=True, backend="eager")
    clip = torch.compile(
        lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), fullgraph=True, backend="eager"
    )
    for step in range(2):
        forward(torch.ones(2, 4)).sum().backward()
        assert clip() > 0
        optimizer.step()
        run.step(step)
    names = {name for event in of_kind(run, wire.Log) for name in event.metrics}
    assert "gradients/global_norm" in names, "measured before the optimizer stepped, which was not compiled"
    assert run.rejected == {}


def test_weights_that_are_not_on_this_rank_are_absent_not_zero(run: Run) -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.data = torch.empty(0)
    run.watch(model, every=1).sample(1)
    model.weight.data = torch.empty(0)
    run.watch(model, every=1).sample(2)
    (found,) = [event.metrics for event in of_kind(run, wire.Log)]
    assert {"weights/weight/mean", "weights/global_mean"} <= set(found)
    assert "weights/bias/mean" not in found
    assert run.rejected == {}
