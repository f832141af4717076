"""What makes it fast is an option that works on any machine, and changes the numbers by rounding at most."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fake_run import Recorder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import sidecar
from sidecar.client.facts import model_facts
from sidecar.derive import mfu, peaks
from trainer import monitoring
from trainer.config import CONFIGS, Config
from trainer.data.batch import Batch
from trainer.data.prefetch import Prefetcher
from trainer.distributed import World, process_group
from trainer.errors import UserError
from trainer.flags import parse
from trainer.flops import flops_per_token, peak_flops
from trainer.loop import Loop
from trainer.model import GPT, ModelConfig
from trainer.optimizer import build_optimizer
from trainer.schedule import Schedule
from trainer.stages import load_stage
from trainer.stages.ppo import ReplyBatch
from trainer.step_metrics import StepMetrics
from trainer.throughput import ThroughputMeter

PRESETS = sorted((Path(__file__).resolve().parents[2] / "trainer" / "presets").glob("*.toml"))
SMALL = {"ppo": {"max_reply": 6}}


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "ppo"])
def test_bfloat16_trains_with_nearly_the_same_losses(trained, stage: str) -> None:
    exact, short = (trained(stage, steps=4, dtype=d, **SMALL.get(stage, {})) for d in ("float32", "bfloat16"))
    assert short.begun["model_facts"]["dtype"] == "bfloat16"
    assert all(map(math.isfinite, short.losses))
    if stage == "ppo":
        assert short.steps[0]["metrics"]["ppo/clip_fraction"] == 0, "replies are judged as precisely as they are learnt"
    if stage != "ppo":  # There the first rounding draws other replies.
        assert short.losses != exact.losses
        assert short.losses == pytest.approx(exact.losses, rel=0.03, abs=0.03)


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "ppo"])
def test_the_compiler_sees_one_graph_and_changes_nothing(trained, monkeypatch, stage: str) -> None:
    """Without its code generator, which needs a C++ compiler: what remains is what our code could break."""
    plain = trained(stage, steps=3, **SMALL.get(stage, {}))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    compiled = trained(stage, steps=3, compile=True, **SMALL.get(stage, {}))
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4, abs=1e-5)
    assert compiled.phases.count("compile") == 2


def test_without_a_compiler_there_is_one_line_and_no_traceback(trained, monkeypatch) -> None:
    def without_compiler(graph: object, inputs: object) -> None:
        raise RuntimeError("No working C++ compiler found\n\nat length")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=without_compiler))
    with pytest.raises(UserError) as caught:
        trained(steps=1, compile=True)
    assert caught.value.cause == "torch.compile failed at step 1: No working C++ compiler found"
    assert "--no-compile" in caught.value.remedy


def test_activations_computed_twice_give_the_same_gradients_also_from_a_resume_on(
    trained, monkeypatch, tmp_path
) -> None:
    calls: list[object] = []
    real = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr("trainer.model.checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
    twice = trained(steps=3, dropout=0.1, checkpoint_activations=True)
    assert len(calls) == 3
    once = trained(steps=3, dropout=0.1, out=str(tmp_path), checkpoint_freq=2)
    assert len(calls) == 3, "only on demand"
    assert [step["grad_norm"] for step in twice.steps] == [step["grad_norm"] for step in once.steps]
    rest = trained(
        steps=3, dropout=0.1, checkpoint_activations=True, resume=str(tmp_path / "pretrain/checkpoint_000002.pt")
    )
    assert len(calls) == 4
    assert rest.losses == once.losses[2:]


def test_the_fused_optimizer_steps_as_the_plain_one() -> None:
    models = [GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, seq_len=8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    fused = build_optimizer(models[0], Config())
    assert all(group["fused"] for group in fused.param_groups)
    plain = torch.optim.AdamW(
        [{k: v for k, v in g.items() if k == "weight_decay"} | {"params": p} for g, p in zip(
            fused.param_groups,
            ([q for q in models[1].parameters() if q.dim() >= 2], [q for q in models[1].parameters() if q.dim() < 2]),
            strict=False,
        )],
        lr=Config().learning_rate, betas=(0.9, 0.95),
    )  # fmt: skip
    tokens = torch.randint(0, 320, (4, 8), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for model, optimizer in zip(models, (fused, plain), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_attention_is_torchs_own_and_its_flash_kernel_gives_what_the_formula_does() -> None:
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, seq_len=16)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randint(0, 320, (2, 16))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        flash = model(tokens)
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(flash, model(tokens), rtol=1e-4, atol=1e-4)


class _Loader:
    def next_batch(self) -> Batch:
        return Batch(torch.ones(1, 2), torch.zeros(1, 2))

    def state(self) -> dict[str, int]:
        return {}


def test_what_is_read_ahead_for_a_gpu_lies_in_pinned_memory(monkeypatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    Prefetcher(_Loader(), pin=False).next_batch()
    assert pinned == []
    Prefetcher(_Loader(), pin=True).next_batch()
    assert len(pinned) >= 2


def test_a_rank_without_a_device_of_its_own_is_refused_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="rank 1 has no CUDA device: this machine has 1"), process_group():
        pass


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo", "ppo"])
def test_nothing_in_a_step_waits_for_the_device(tiny, tiny_chat, monkeypatch, stage: str) -> None:
    """On "meta", which computes no values: whoever asks it for one, as by .item(), gets an error instead of a wait."""
    there = World(0, 0, 1, torch.device("meta"))
    monkeypatch.setattr("trainer.monitoring.measured_peak_flops", lambda *_: 1e11)
    monkeypatch.setattr(sidecar, "init", lambda **begun: Recorder(**begun))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda _: None)  # No fused kernel for "meta"; it reads found_inf.
    flags = {**(tiny if stage == "pretrain" else tiny_chat), "log_train_freq": 100, "grad_accum": 2}
    config = CONFIGS[stage](**flags)
    made = load_stage(stage)(config, there)
    if stage == "ppo":  # As a rollout leaves it: that one must read what the model says.
        made.updates, rows = 0, torch.ones(config.batch_size * config.rollout_batches, 16)
        floats = dict.fromkeys(("logps", "values", "advantages", "returns"), rows)
        made.experience = {"inputs": rows.long(), "targets": rows.long(), "dataset": rows[:, 0].long() * 0, **floats}
    loop = Loop(made, config, there)
    loop.open()
    loop.announce()
    for _ in range(2):
        loop._train_step()
    told = loop.run.steps[-1]
    with pytest.raises(RuntimeError, match="meta"):
        told["loss"].item()
    assert told["grad_norm"].device.type == told["metrics"]["train/skipped_steps"].device.type == "meta"
    assert told["samples"] == 8


# -- FLOPs -------------------------------------------------------------------------------------------------------------

ATEN = torch.ops.aten
CPU_ATTENTION = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""torch's counter knows the flash kernels of GPUs; the CPU's it would take to cost nothing."""


@pytest.mark.parametrize("seq_len", [32, 128])
def test_the_sidecars_flops_are_those_torch_counts_within_three_percent_under_its_own_convention(
    trained, seq_len: int
) -> None:
    """Flash attention's backward computes the scores again: 5 products where the sidecar's convention has 4."""
    facts = trained(steps=1, seq_len=seq_len, n_layer=2, n_embd=64).begun["model_facts"]
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=64, seq_len=seq_len))
    tokens = torch.randint(0, 320, (3, seq_len))
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
    again = 2 * facts["layers"] * facts["heads"] * facts["head_dim"] * facts["seq_len"]
    counted = counter.get_total_flops() / tokens.numel()
    for known in (facts, model_facts(model, None)):  # As the trainer says it, and as the sidecar finds it by itself.
        figure = mfu.model_of(known).flops_per_token
        assert figure == flops_per_token(model)
        assert figure + again == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_what_a_stage_says_its_step_costs_is_what_torch_counts_within_three_percent(stage: str) -> None:
    """DPO's frozen reference reads each pair, too; a reply that PPO trains on was read when it was drawn."""
    model, tokens = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=64, seq_len=32)), torch.randint(0, 256, (4, 32))
    made = load_stage(stage).__new__(load_stage(stage))
    made.beta, made.chosen_weight, made.config = 0.1, 0.0, CONFIGS[stage]()
    floats = dict.fromkeys(("logps", "values", "advantages", "returns"), torch.zeros(4, 32))
    learner, batch = made.wrap_model(model), ReplyBatch(tokens, tokens, extra=floats)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        made.loss(learner, batch)[0].backward()
    assert made.flops(model, batch) == pytest.approx(counter.get_total_flops(), rel=0.03)
    if stage == "ppo":
        rollout = dataclasses.replace(batch, rollout_tokens=batch.tokens)
        assert made.flops(model, rollout) == 2 * made.flops(model, batch), "drawn, judged by both models"


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (torch.bfloat16, (9, 0), ("bfloat16", 989.4e12)),
        (torch.float32, (9, 0), ("tf32", 494.7e12)),
        (torch.float32, (7, 5), ("float32", 67e12)),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_the_products_it_computes(monkeypatch, dtype, capability, expected) -> None:
    """Against the rate of plain float32, TF32 would show an MFU of several hundred percent."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    facts = monitoring.model_facts(GPT(ModelConfig()), Config(), World(0, 0, 1, torch.device("cuda", 0)), dtype)
    peak, _ = peaks.find(facts["device_name"], peaks.dtype_of(facts["dtype"]))
    assert (facts["dtype"], peak) == expected
    assert peak_flops(facts) == pytest.approx(peak), "the console's MFU is that of the sidecar"


# -- the console's speed -----------------------------------------------------------------------------------------------


def test_the_consoles_speed_is_of_its_last_steps_and_counts_what_a_stage_says_they_cost(monkeypatch) -> None:
    """A first step of half a minute, in which the model is compiled, then one second each; reports at 1 and 3."""
    clock = [0.0]
    monkeypatch.setattr("trainer.throughput.time.perf_counter", lambda: clock[0])
    schedule = Schedule(total_steps=10, steps_per_epoch=5, eval_freq=9, eval_iters=1, generate_freq=9)
    meter = ThroughputMeter(schedule, first_step=0, world_size=2, flops_per_token=10.0, peak_flops=1000.0)
    reports = {}
    for step, seconds, flops in ((1, 30, None), (2, 1, 700.0), (3, 1, 700.0)):
        clock[0] += 60  # Validating, sampling: not training.
        meter.begin()
        clock[0] += seconds
        metrics = StepMetrics()
        metrics.add(Batch(torch.ones(2, 25), torch.zeros(2, 25)), torch.tensor(1.0), {}, weight=None, flops=flops)
        meter.end(step, float(step), metrics)
        if step != 2:
            reports[step] = meter.report(step)
    assert reports[1]["tokens_per_second"] == pytest.approx(2 * 50 / 30)
    assert reports[1]["mfu"] == pytest.approx(50 * 10 / 30 / 1000)
    assert (reports[3]["loss"], reports[3]["tokens_per_second"], reports[3]["mfu"]) == (2.5, 100, 0.7)
    assert reports[3]["eta_seconds"] == 7, "compiling is over"
    assert (meter.first_loss, meter.last_loss, meter.samples, meter.seconds_training) == (1, 3, 6, 32)


# -- presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_file_of_flags_for_a_model_of_100_to_500_million(path: Path) -> None:
    config = parse(Config, "pretrain", ["--config", str(path)])
    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "seq_len": config.seq_len}
    with torch.device("meta"):
        model = GPT(ModelConfig(**shape))
    assert 100e6 < model.params() < 500e6
    assert (config.dtype, config.compile, config.device) == ("bfloat16", True, "cuda")
    assert model.config.head_dim in (64, 128), "sizes that flash attention is fast at"
    assert config.batch_size * config.seq_len >= 32_768, "enough work in a step to keep the device busy"


def test_there_is_a_preset() -> None:
    assert PRESETS
