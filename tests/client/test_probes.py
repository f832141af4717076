"""Probes against double-precision references; and what they must not do: change, cost, raise."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar import wire
from sidecar.client.instruments import NoProbe
from sidecar.client.run import Run
from tests.client.test_run import events, of_kind

torch = pytest.importorskip("torch")
from sidecar.client import activations, probe_bins, probe_reader, probe_selection, probe_stats  # noqa: E402 - They need torch.
from sidecar.client.probe_stats import moments  # noqa: E402

nn = torch.nn


def small_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))


def groups_of(model: Any) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    return [{"params": matrices}, {"params": [p for p in model.parameters() if p.dim() < 2], "name": "vectors"}]


def logged(run: Run, step: int | None = None) -> dict[str, Any]:
    """All that was logged at a step (default: at any), merged."""
    out: dict[str, Any] = {}
    for event in of_kind(run, wire.Log):
        if step is None or event.step == step:
            out |= event.metrics
    return out


def train(run: Run, model: Any, optimizer: Any, steps: range, *, clip: float = 0.0, micro: int = 1) -> list[float]:
    """Losses, by step; the data depend on the step only."""
    losses = []
    for step in steps:
        loss = None
        for m in range(micro):
            x = torch.randn(6, 8, generator=torch.Generator().manual_seed(100 * step + m))
            loss = model(x).square().mean() / micro
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        run.step(step, loss=losses[-1])
    return losses


def reference_gradients(model: Any, x: Any) -> dict[str, Any]:
    """Gradients in double precision, of a copy."""
    import copy

    twin = copy.deepcopy(model).double()
    twin.zero_grad()
    twin(x.double()).square().mean().backward()
    return {name: p.grad for name, p in twin.named_parameters()}


def test_gradient_norms_are_those_of_double_precision_and_of_before_clipping(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(groups_of(model), lr=0.1)
    run.watch(model, optimizer, every=5)
    train(run, model, optimizer, range(1, 5))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(500))
    norms = {name: g.norm().item() for name, g in reference_gradients(model, x).items()}
    train(run, model, optimizer, range(5, 7), clip=1e-3)
    found = logged(run, 5)
    assert found["gradients/global_norm"] == pytest.approx(math.hypot(*norms.values()), rel=1e-4)
    assert found["gradients/mean_norm"] == pytest.approx(sum(norms.values()) / len(norms), rel=1e-4)
    assert found["gradients/max_norm"] == pytest.approx(max(norms.values()), rel=1e-4)
    assert found["gradients/min_norm"] == pytest.approx(min(norms.values()), rel=1e-4)
    assert found["gradients/max_norm_name"] == max(norms, key=norms.__getitem__)
    for name, norm in norms.items():
        assert found[f"gradients/{name}"] == pytest.approx(norm, rel=1e-4)
    weights = [norms[name] for name, p in model.named_parameters() if p.dim() > 1]
    biases = [norms[name] for name, p in model.named_parameters() if p.dim() < 2]
    assert found["train/grad_norm/0"] == pytest.approx(math.hypot(*weights), rel=1e-4)
    assert found["train/grad_norm/vectors"] == pytest.approx(math.hypot(*biases), rel=1e-4)
    assert run.rejected == {}


def test_weights_and_what_a_step_did_to_them_are_those_of_double_precision(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(groups_of(model), lr=0.1)
    run.watch(model, optimizer, every=3)
    train(run, model, optimizer, range(1, 3))
    before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    train(run, model, optimizer, range(3, 4))
    after = {name: p.detach().double() for name, p in model.named_parameters()}
    found = logged(run, 3)
    everything = torch.cat([p.flatten() for p in after.values()])
    assert found["weights/global_mean"] == pytest.approx(everything.mean().item(), abs=1e-7, rel=1e-5)
    assert found["weights/global_std"] == pytest.approx(everything.std(correction=0).item(), rel=1e-5)
    assert found["train/param_norm"] == pytest.approx(everything.norm().item(), rel=1e-5)
    biases = torch.cat([p for p in after.values() if p.dim() < 2])
    assert found["train/param_norm/vectors"] == pytest.approx(biases.norm().item(), rel=1e-5)
    for name, p in after.items():
        assert found[f"weights/{name}/mean"] == pytest.approx(p.mean().item(), abs=1e-7, rel=1e-5)
        assert found[f"weights/{name}/std"] == pytest.approx(p.std(correction=0).item(), abs=1e-9, rel=1e-5)
        assert found[f"weights/{name}/norm"] == pytest.approx(p.norm().item(), rel=1e-5)
        ratio = (p - before[name]).norm() / before[name].norm()
        assert found[f"updates/{name}"] == pytest.approx(ratio.item(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_moments_hold_where_the_mean_dwarfs_the_deviation(dtype: Any) -> None:
    values = (torch.randn(5001, generator=torch.Generator().manual_seed(1)) * 0.01 + 3.0).to(dtype)
    mean, variance = moments(values)
    assert mean.item() == pytest.approx(values.double().mean().item(), rel=1e-6)
    assert math.sqrt(variance.item()) == pytest.approx(values.double().std(correction=0).item(), rel=1e-4)


def test_large_tensors_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(2)) + 1
    whole = [each.item() for each in moments(values)]
    monkeypatch.setattr(probe_stats, "CHUNK_ELEMENTS", 64)
    assert [each.item() for each in moments(values)] == pytest.approx(whole, rel=1e-6)


def test_two_samples_in_two_hundred_steps_and_nothing_is_touched_in_between(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off a sample no tensor is read: not even the lists of parameters are walked."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    calls: list[str] = []
    run.watch(model, optimizer, activations=["4"], histograms=True)
    for module, name in (
        (probe_reader, "norms"), (probe_reader, "moments"), (probe_reader, "local"), (probe_bins, "packed"),
        (activations, "moments"),
    ):  # fmt: skip
        original = getattr(module, name)

        def counting(*args: Any, _original: Any = original, _name: str = name) -> Any:
            calls.append(f"{_name}@{(run._last_step or 0) + 1}")
            return _original(*args)

        monkeypatch.setattr(module, name, counting)
    hooks = []
    for step in range(1, 201):
        hooks.append(len(model[4]._forward_hooks))
        train(run, model, optimizer, range(step, step + 1))
    assert {call.partition("@")[2] for call in calls} == {"100", "200"}
    assert [step for step, count in enumerate(hooks, 1) if count] == [100, 200]
    assert sorted({event.step for event in of_kind(run, wire.Log)}) == [100, 200]


def test_losses_are_the_same_to_the_last_bit_with_everything_switched_on(run: Run) -> None:
    def losses(watched: bool) -> list[float]:
        model = small_model(3)
        model.insert(2, nn.Dropout(0.5))
        optimizer = torch.optim.AdamW(groups_of(model), lr=0.01)
        torch.manual_seed(7)
        if watched:
            run.watch(model, optimizer, every=1, histograms=True, activations=True)
        found = train(run, model, optimizer, range(1, 15), clip=0.1, micro=2)
        return [*found, torch.cat([p.flatten() for p in model.parameters()]).double().sum().item()]

    assert losses(watched=False) == losses(watched=True)
    assert logged(run)["gradients/global_norm"] > 0
    assert of_kind(run, wire.Histogram)
    assert run.rejected == {}


def test_accumulated_gradients_are_measured_once_after_the_last_micro_batch(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)
    batches = [torch.randn(6, 8, generator=torch.Generator().manual_seed(100 + m)) for m in range(4)]
    twins = [reference_gradients(model, x) for x in batches]
    norm = torch.cat([sum(t[n] for t in twins).flatten() / 4 for n in twins[0]]).norm().item()
    train(run, model, optimizer, range(1, 2), micro=4)
    assert logged(run)["gradients/global_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_gradient_is_reported_unscaled(run: Run, clip: bool, fused: bool) -> None:
    """A scaler divides before the step; a fused optimizer does it inside the step, and says by what."""
    model = small_model()
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    norm = torch.cat([g.flatten() for g in reference_gradients(model, x).values()]).norm().item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    run.watch(model, optimizer, every=1, scaler=scaler, histograms="gradients")
    scaler.scale(model(x).square().mean()).backward()
    if clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    scaler.step(optimizer)
    scaler.update()
    run.step(1)
    found = logged(run)
    assert found["gradients/global_norm"] == pytest.approx(norm, rel=1e-4)
    assert found["train/loss_scale"] == 1024.0
    edges = [e.edges for e in of_kind(run, wire.Histogram) if e.name == "gradients/4.bias/histogram"][0]
    assert abs(edges[0]) < 10


def test_activations_are_those_of_the_training_forward_pass(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=2, activations=[r"^1$"], gradients=False, weights=False, updates=False)
    train(run, model, optimizer, range(1, 2))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(200))
    with torch.no_grad():
        expected = model[1](model[0](x)).double()
    model.eval()
    model(torch.randn(3, 8))  # An evaluation between two steps is nobody's sample.
    model.train()
    train(run, model, optimizer, range(2, 3))
    assert logged(run, 2) == {
        "activations/1/mean": pytest.approx(expected.mean().item(), rel=1e-5),
        "activations/1/std": pytest.approx(expected.std(correction=0).item(), rel=1e-5),
        "activations/1/max": pytest.approx(expected.abs().max().item(), rel=1e-6),
        "activations/1/zero_ratio": pytest.approx((expected == 0).double().mean().item(), rel=1e-6),
    }


def test_outputs_of_any_kind_are_looked_at_or_left_alone() -> None:
    tensor = torch.ones(2)
    assert activations.first_tensor((tensor, None)) is tensor
    assert activations.first_tensor({"logits": [tensor]}) is tensor
    assert activations.first_tensor(SimpleNamespace(logits=tensor)) is None
    assert activations.first_tensor(None) is None
    assert activations.first_tensor([]) is None


def test_bins_hold_every_element_and_only_bins_leave(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1, histograms=True, activations=True)
    train(run, model, optimizer, range(1, 3))
    found = {e.name: e for e in of_kind(run, wire.Histogram) if e.step == 2}
    for name, p in model.named_parameters():
        for kind in ("weights", "gradients"):
            event = found[f"{kind}/{name}/histogram"]
            assert (len(event.edges), len(event.counts), sum(event.counts)) == (65, 64, p.numel())
    assert sum(found["activations/0/histogram"].counts) == 6 * 16
    weight = model[0].weight
    event = found["weights/0.weight/histogram"]
    assert (event.edges[0], event.edges[-1]) == (weight.min().item(), weight.max().item())


def test_nan_gradients_are_news_and_name_their_parameter(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1, histograms=["gradients"])
    model(torch.randn(6, 8)).square().mean().backward()
    model[2].weight.grad[0, 0] = math.nan
    model[0].bias.grad[0] = math.inf
    optimizer.step()
    run.step(1)
    found = logged(run)
    assert math.isnan(found["gradients/global_norm"])
    assert found["gradients/max_norm_name"] == "2.weight"
    assert found["gradients/0.bias"] == math.inf
    bins = {e.name: sum(e.counts) for e in of_kind(run, wire.Histogram)}
    assert bins["gradients/2.weight/histogram"] == 16 * 16 - 1
    assert run.rejected == {}


def test_large_models_are_sampled_evenly_and_the_same_each_time() -> None:
    names = [f"blocks.{i}.weight" for i in range(1000)]
    first = probe_selection.chosen(names, None)
    assert len(first) == 64
    assert first == probe_selection.chosen(names, None)
    assert (first[0], first[-1]) == (names[0], names[-1])
    assert probe_selection.chosen(names, 2) == [names[0], names[-1]]
    assert probe_selection.chosen(names, 0) == []
    assert probe_selection.chosen(names, r"\.7\d\.") == names[70:80]
    assert len(probe_selection.chosen(names, "weight")) == probe_selection.LAYERS_LIMIT
    assert probe_selection.chosen(names[:3], None) == names[:3]


def test_the_log_names_the_layers_that_stand_for_all(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sidecar")
    probe = run.watch(small_model(), layers=2)
    assert probe.layers == ["0.weight", "4.bias"]
    assert "watching 2 of 6 layers: 0.weight, 4.bias" in caplog.text


def test_names_are_those_of_the_model_not_of_its_wrappers() -> None:
    assert probe_selection.plain_name("module._orig_mod.h.0._checkpoint_wrapped_module.w") == "h.0.w"
    assert probe_selection.plain_name("my_module.weight") == "my_module.weight"


def test_a_loop_without_an_optimizer_of_torch_says_when(run: Run) -> None:
    model = small_model()
    probe = run.watch(model, every=2, activations=["0"])
    for step in range(1, 4):
        model(torch.randn(6, 8)).square().mean().backward()
        probe.sample(step)
        run.step(step)
    assert {event.step for event in of_kind(run, wire.Log)} == {2}
    assert {"gradients/global_norm", "weights/global_std", "activations/0/std"} <= logged(run, 2).keys()


def test_a_closed_probe_leaves_no_hook_and_the_end_of_the_run_closes_all(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seam = torch.nn.utils.clip_grad._clip_grads_with_norm_
    probe = run.watch(model, optimizer, every=1, activations=True)
    other = run.watch(model, optimizer, every=1)
    train(run, model, optimizer, range(1, 3))
    probe.close()
    other.close()
    other.close()
    assert not any(module._forward_hooks for module in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert torch.nn.utils.clip_grad._clip_grads_with_norm_ is seam
    run.watch(model, optimizer, every=1)
    run.finish(timeout_seconds=0.01)
    assert not optimizer._optimizer_step_pre_hooks


def test_clipping_another_models_gradients_is_not_the_moment(run: Run) -> None:
    model, other = small_model(), small_model(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)
    model(torch.ones(1, 8)).sum().backward()
    other(torch.ones(1, 8)).sum().backward()
    nn.utils.clip_grad_norm_(other.parameters(), 1e-3)  # Ours are half done: the next micro-batch comes after this.
    model(torch.ones(1, 8)).sum().backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).double().norm().item()
    optimizer.step()
    run.step(1)
    assert logged(run)["gradients/global_norm"] == pytest.approx(norm, rel=1e-4)


def test_where_the_step_itself_computes_gradients_those_are_measured(run: Run) -> None:
    """Lightning and L-BFGS hand the optimizer a closure that runs forward and backward."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)
    run.time_optimizer(optimizer)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    norm = torch.cat([g.flatten() for g in reference_gradients(model, x).values()]).norm().item()
    pauses: list[float] = []

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        assert run._open_phases.stack == []  # This is no part of the phase "optimizer".
        pauses.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == pauses[0]
    run.step(1)
    optimizer.step(closure=closure)
    run.step(2)
    assert logged(run, 1)["gradients/global_norm"] == pytest.approx(norm, rel=1e-4)
    assert "gradients/global_norm" in logged(run, 2)
    assert len(pauses) == 2
    assert of_kind(run, wire.Step)[0].phases["optimizer"] > 0
    assert run.rejected == {}


def test_a_closure_that_raises_is_the_scripts_and_leaves_no_phase_open(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)
    run.time_optimizer(optimizer)

    def closure() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert run._open_phases.stack == []


KINDS: dict[str, dict[str, Any]] = {
    "gradients": {"weights": False, "updates": False}, "weights": {"gradients": False, "updates": False},
    "updates": {"gradients": False, "weights": False}, "activations": {"activations": True},
    "histograms": {"histograms": True, "activations": ["4"]}, "by hand": {"every": 1}, "phases": {}, "dataset_loss": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_each_instrument_alone_leaves_every_bit_as_it_is(run: Run, kind: str, fused: bool) -> None:
    """With dropout, a gradient scaler, accumulation and clipping, foreach or fused."""

    def outcome(instrumented: bool) -> list[float]:
        model = small_model(3)
        model.insert(2, nn.Dropout(0.5))
        optimizer = torch.optim.AdamW(groups_of(model), lr=0.01, foreach=not fused, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        torch.manual_seed(7)
        probe: Any = NoProbe()
        if instrumented and kind == "phases":
            run.time_optimizer(optimizer)
        elif instrumented and kind != "dataset_loss":
            by_hand = kind == "by hand"
            probe = run.watch(model, None if by_hand else optimizer, **{"every": 1, "scaler": scaler, **KINDS[kind]})
        losses = []
        for step in range(1, 5):
            for x in run.data([torch.full((6, 8), 0.1 * step), torch.ones(6, 8)]) if instrumented else (
                torch.full((6, 8), 0.1 * step), torch.ones(6, 8)
            ):  # fmt: skip
                each = model(x).square().squeeze(1)
                if instrumented and kind == "dataset_loss":
                    run.dataset_loss(["a", "b"] * 3, each)
                scaler.scale(each.mean() / 2).backward()
                losses.append(each.sum().item())
            probe.sample(step) if instrumented and kind == "by hand" else None
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if instrumented:
                run.step(step, loss=each.mean(), grad_norm=each.sum())
        return [*losses, *torch.cat([p.flatten() for p in model.parameters()]).tolist()]

    assert outcome(False) == outcome(True)
    assert run.rejected == {}


def test_a_step_that_a_scaler_skipped_is_sampled_at_the_next(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=2)
    train(run, model, optimizer, range(1, 2))
    for p in model.parameters():
        p.grad = torch.full_like(p, math.inf)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.zero_grad()
    run.step(2)  # No optimizer.step: the scaler left it out.
    train(run, model, optimizer, range(3, 4), clip=1.0)
    assert {event.step for event in of_kind(run, wire.Log)} == {3}
    assert math.isfinite(logged(run)["gradients/global_norm"])


def test_what_cannot_be_watched_is_counted_and_raises_nothing(run: Run) -> None:
    model = small_model()
    assert isinstance(run.watch(None), NoProbe)
    assert isinstance(run.watch(model, every=0), NoProbe)
    assert isinstance(run.watch(model, object()), NoProbe)
    assert isinstance(run.watch(model, layers="("), NoProbe)
    assert isinstance(run.watch(model, shards="sometimes"), NoProbe)
    run.watch(None).sample(1)
    run.watch(None).close()
    assert run.rejected["bad_watch"] == 7


def test_a_probe_that_fails_in_the_loop_is_counted_and_training_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)

    def broken(*args: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(probe_reader, "norms", broken)
    train(run, model, optimizer, range(1, 3), clip=1.0)
    assert run.rejected["failed_probe"] >= 2
    assert len(of_kind(run, wire.Step)) == 2


def test_several_optimizers_of_one_model_are_one_step(run: Run) -> None:
    model = small_model()
    first, second = (torch.optim.SGD(group["params"], lr=0.1) for group in groups_of(model))
    run.watch(model, [first, second], every=2)
    for step in range(1, 4):
        model(torch.randn(6, 8)).square().mean().backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.dim() > 1], 1e-3)
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.dim() < 2], 1e-3)
        norm = math.hypot(*(p.grad.norm().item() for p in model.parameters()))
        first.step()
        second.step()
        model.zero_grad()
        run.step(step)
    found = logged(run)
    assert {event.step for event in of_kind(run, wire.Log)} == {2}
    assert found["gradients/global_norm"] > norm  # Before either part was clipped.
    assert {"train/grad_norm/0", "train/grad_norm/1"} <= found.keys()
    assert found["updates/0.weight"] > 0
    assert found["updates/0.bias"] > 0


def test_bins_that_fail_do_not_take_the_norms_with_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Any) -> Any:
        raise RuntimeError("_histc_cuda does not have a deterministic implementation")

    monkeypatch.setattr(probe_bins, "packed", refuse)
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1, histograms=True)
    train(run, model, optimizer, range(1, 2))
    assert {"gradients/global_norm", "weights/global_std", "updates/ratio"} <= logged(run).keys()
    assert run.rejected == {"failed_histogram": 12}


def test_a_sample_taken_in_the_last_step_arrives_though_no_step_follows(run: Run) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=2)
    train(run, model, optimizer, range(1, 2))
    model(torch.randn(6, 8)).square().mean().backward()
    optimizer.step()
    run._instruments.close()
    assert "gradients/global_norm" in logged(run)


def test_sparse_and_frozen_and_unused_parameters_do_no_harm(run: Run) -> None:
    model = nn.ModuleDict({"used": nn.Embedding(10, 4, sparse=True), "unused": nn.Linear(4, 4)})
    model["frozen"] = nn.Linear(4, 4).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    run.watch(model, optimizer, every=1)
    model["used"](torch.tensor([1, 1, 2])).sum().backward()
    optimizer.step()
    run.step(1)
    found = logged(run)
    assert found["gradients/global_norm"] == pytest.approx(math.sqrt(4 * 4 + 4 * 1))
    assert "gradients/unused.weight" not in found
    assert "weights/frozen.weight/mean" not in found
    assert run.rejected == {}


def test_the_status_shows_the_largest_gradient_with_its_name(run: Run) -> None:
    from sidecar.derive.snapshot import snapshot
    from sidecar.fold import fold
    from sidecar.state import RunState

    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.watch(model, optimizer, every=1)
    train(run, model, optimizer, range(1, 3))
    state = RunState(run_id="r")
    for seq, event in enumerate(events(run)):
        fold(state, SimpleNamespace(rank=0, session=1, seq=seq, received_ns=event.time_ns, event=event))
    metrics = snapshot(state, now_ns=event.time_ns).metrics
    assert metrics["gradients/max_norm"].value > 0
    assert metrics["gradients/max_norm_name"].value == "4.bias"


class Under:
    """Numbers that a device has not finished: what would be an asynchronous copy."""

    def __init__(self, vector: Any, gate: list[bool]) -> None:
        self._vector, self._gate, self.size = vector.clone(), gate, vector.numel()

    def ready(self) -> bool:
        return bool(self._gate)

    def values(self) -> list[float]:
        assert self._gate
        return self._vector.tolist()


def test_on_an_asynchronous_device_nothing_is_read_before_it_is_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way in which Python reads a tensor is closed while the loop runs: a probe only queues work."""
    gate: list[bool] = []
    for module in ("probe_stats", "instruments"):
        monkeypatch.setattr(f"sidecar.client.{module}.send", lambda vector: Under(vector, gate))
    model = small_model()
    optimizer = torch.optim.SGD(groups_of(model), lr=0.1)
    run.watch(model, optimizer, every=1, histograms=True, activations=True)
    readers = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "nonzero")

    def reads(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("this would wait for the device")

    with monkeypatch.context() as closed:
        for name in readers:
            closed.setattr(torch.Tensor, name, reads)
        for step in range(1, 4):
            model(torch.randn(6, 8)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            run.step(step)
    assert run.rejected == {}
    waiting = of_kind(run, wire.Log)
    assert all(event.metrics.keys() == {wire.PENDING} for event in waiting)
    assert of_kind(run, wire.Histogram) == of_kind(run, wire.Completion) == []
    gate.append(True)
    run.step(4)
    completions = of_kind(run, wire.Completion)
    assert [len(event.metrics) for event in completions] == [event.metrics[wire.PENDING] for event in waiting]
    assert {e.step for e in of_kind(run, wire.Histogram)} == {1, 2, 3}
    names = {name for event in completions for name in event.metrics}
    assert {"gradients/max_norm_name", "updates/ratio", "weights/global_std", "activations/0/std"} <= names
