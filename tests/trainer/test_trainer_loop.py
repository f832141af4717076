"""The training loop: what it learns, what it reports, and what validation must not change."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from fake_run import Recorder

import sidecar
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.nonfinite import NonFiniteGuard


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_loss_falls_clearly_within_sixty_steps(trained) -> None:
    losses = trained(steps=60).losses
    assert losses[0] == pytest.approx(math.log(320), abs=0.1), (
        "an untrained model knows nothing: every token is as likely"
    )
    assert mean(losses[-5:]) < 0.6 * losses[0]


def test_validation_and_samples_leave_the_losses_bit_equal(trained) -> None:
    plain = trained(steps=6, dropout=0.2)
    watched = trained(steps=6, dropout=0.2, eval_freq=1, generate_freq=2)
    assert len(watched.logged("val/loss")) == 6
    assert len(watched.texts) == 9
    assert watched.losses == plain.losses


def test_dropout_draws_from_the_random_numbers_that_the_test_above_protects(trained) -> None:
    assert trained(steps=3, dropout=0.2, seed=1).losses != trained(steps=3, dropout=0.2, seed=2).losses


def test_two_runs_with_one_seed_are_bit_equal(trained) -> None:
    assert trained(steps=4).losses == trained(steps=4).losses


def test_a_resumed_run_is_bit_equal_to_one_that_never_stopped(trained, tmp_path: Path) -> None:
    whole = trained(steps=8, dropout=0.1, out=str(tmp_path), checkpoint_freq=5, eval_freq=8)
    rest = trained(steps=8, dropout=0.1, resume=str(tmp_path / "pretrain" / "checkpoint_000005.pt"), eval_freq=8)
    assert [step["step"] for step in rest.steps] == [6, 7, 8]
    assert rest.losses == whole.losses[5:]
    assert [s["grad_norm"] for s in rest.steps] == [s["grad_norm"] for s in whole.steps[5:]]
    assert rest.logged("val/loss") == whole.logged("val/loss")
    assert rest.texts == whole.texts


def test_resuming_crosses_the_end_of_an_epoch_exactly(trained, tmp_path: Path) -> None:
    flags = {"batch_size": 64, "steps": 40, "n_embd": 8}
    whole = trained(**flags, out=str(tmp_path), checkpoint_freq=15)
    assert whole.steps[-1]["epoch"] > 1, "the corpus must be short enough to be read more than once"
    rest = trained(**flags, resume=str(tmp_path / "pretrain" / "checkpoint_000015.pt"))
    assert rest.losses == whole.losses[15:]


def test_a_resumed_run_keeps_its_id_and_a_folder_means_its_newest_checkpoint(trained, tmp_path: Path, capsys) -> None:
    trained(steps=4, out=str(tmp_path), checkpoint_freq=2, run_id="r-17")
    resumed = trained(steps=6, resume=str(tmp_path), quiet=False)
    assert re.search(r"resumed from \S+ at step 4$", capsys.readouterr().out, re.MULTILINE)
    assert resumed.begun["run_id"] == "r-17"
    assert resumed.steps[0]["step"] == 5
    assert resumed.logged("dataset/train_size") == [], "said once per run"


@pytest.mark.parametrize("part", ["optimizer", "random", "data_of_ranks"])
def test_a_checkpoint_of_which_a_part_was_taken_off_cannot_be_resumed(trained, tmp_path: Path, part: str) -> None:
    """People take the optimizer off, to make it smaller."""
    trained(steps=1, n_embd=8, out=str(tmp_path))
    path = tmp_path / "pretrain" / "checkpoint_000001.pt"
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != part}, path)
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        trained(steps=2, n_embd=8, resume=str(path))


def test_every_checkpoint_is_an_event_with_its_size(trained, tmp_path: Path) -> None:
    run = trained(steps=5, out=str(tmp_path), checkpoint_freq=2)
    assert [event["step"] for event in run.checkpoints] == [2, 4, 5]
    for event in run.checkpoints:
        assert event["bytes"] == (tmp_path / "pretrain" / event["name"]).stat().st_size
        assert event["seconds"] > 0
    files = sorted(path.name for path in (tmp_path / "pretrain").iterdir())
    assert files == [event["name"] for event in run.checkpoints]


def test_no_checkpoint_is_written_without_a_folder_for_it(trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trained(steps=2).checkpoints == []
    assert list(tmp_path.iterdir()) == []


def test_each_step_reports_the_common_numbers(trained) -> None:
    run = trained(steps=3, grad_accum=2)
    for number, step in enumerate(run.steps, start=1):
        assert step["step"] == number
        assert step["tokens"] == 2 * 4 * 32, "over all micro-batches"
        assert step["samples"] == 2 * 4
        assert step["learning_rate"] > 0
        assert step["grad_norm"] > 0
        assert all(type(step[name]) is float for name in ("loss", "learning_rate", "grad_norm", "epoch"))
    assert run.finished == {}


def test_the_phases_of_a_step_are_named_and_in_order(trained) -> None:
    run = trained(steps=1, grad_accum=2, generate_freq=1)
    micro = ["forward", "backward"]
    assert run.phases == ["data_wait", *micro, *micro, "optimizer", "evaluation", "sampling"]


def test_compiling_is_a_phase_of_its_own_and_only_once(trained, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    phases = trained(steps=2, compile=True).phases
    assert phases[:8] == [
        "data_wait",
        "compile",
        "compile",
        "optimizer",
        "data_wait",
        "forward",
        "backward",
        "optimizer",
    ]


def test_what_was_consumed_is_named_by_dataset(trained, corpus: Path) -> None:
    assert trained(steps=3).datasets == {corpus.name: (12, 12 * 32)}


def test_validation_happens_at_multiples_and_at_the_end_but_not_at_zero(trained) -> None:
    assert [step for step, _ in trained(steps=7, eval_freq=3).logged("val/loss")] == [3, 6, 7]


def test_the_run_is_introduced_with_what_mfu_needs(trained) -> None:
    facts = trained(steps=1).begun["model_facts"]
    assert facts["peak_source"] == "measured"
    assert facts["peak_flops"] == 1e11
    assert facts["flops_per_token"] > 6 * 4 * 32 * 32
    assert {"params", "trainable_params", "layers", "heads", "head_dim", "seq_len", "dtype", "device_name"} <= set(
        facts
    )


def test_the_configuration_has_the_flags_and_the_documents_names(trained, corpus: Path) -> None:
    begun = trained(steps=2).begun
    assert begun["total_steps"] == 2
    assert begun["stage"] == "pretrain"
    assert begun["config"]["batch_size"] == begun["config"]["hyperparams/batch_size"] == 4
    assert begun["config"]["dataset_sizes"] == {corpus.name: begun["config"]["dataset/train_size"]}
    assert begun["config"]["model/total_params"] == begun["model_facts"]["params"]


def test_accumulated_micro_batches_make_the_same_step_as_one_large_batch(trained, tmp_path: Path) -> None:
    trained(steps=3, batch_size=8, out=str(tmp_path / "one"))
    trained(steps=3, batch_size=4, grad_accum=2, out=str(tmp_path / "two"))
    files = [tmp_path / name / "pretrain" / "checkpoint_000003.pt" for name in ("one", "two")]
    one, two = (torch.load(file, weights_only=True) for file in files)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad_clip", [0.01, 1e9, 0])
def test_the_norm_is_told_as_it_was_and_clipped_before_the_step(trained, monkeypatch, grad_clip: float) -> None:
    stepped: list[float] = []

    def step(guard: NonFiniteGuard, optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor, number: int) -> None:
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        stepped.append(torch.cat(gradients).norm().item())
        real(guard, optimizer, grad_norm, number)

    real = NonFiniteGuard.step
    monkeypatch.setattr(NonFiniteGuard, "step", step)
    told = [step["grad_norm"] for step in trained(steps=3, grad_clip=grad_clip).steps]
    assert min(told) > 0.01
    assert stepped == pytest.approx([min(norm, grad_clip or math.inf) for norm in told], rel=1e-3)


def test_a_run_that_breaks_says_so_to_the_sidecar(trained, monkeypatch) -> None:
    told: list[Recorder] = []
    monkeypatch.setattr(Recorder, "text", lambda self, *_, **__: told.append(self) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(steps=1)
    assert told[0].finished == {"state": "failed", "reason": "ZeroDivisionError"}


def test_a_device_without_memory_for_the_batch_is_a_cause_and_a_remedy(trained, monkeypatch) -> None:
    told: list[dict[str, str]] = []

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total ...")

    monkeypatch.setattr("trainer.stages.pretrain.Pretraining.loss", full)
    monkeypatch.setattr(Recorder, "finish", lambda self, **how: told.append(how))
    with pytest.raises(UserError, match="cpu is out of memory at step 1") as caught:
        trained(steps=1)
    assert "--checkpoint_activations" in caught.value.remedy
    assert told == [{"state": "failed", "reason": "cpu is out of memory at step 1"}]


def test_a_model_that_does_not_fit_into_memory_is_a_cause_and_a_remedy() -> None:
    with pytest.raises(UserError, match="cpu is out of memory"), process_group("cpu"):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="of another kind"), process_group("cpu"):
        raise RuntimeError("of another kind")


def test_a_disk_that_refuses_mid_run_does_not_end_training(trained, tmp_path: Path, monkeypatch, capsys) -> None:
    calls = []

    def refuse_once(path: Path, state: dict[str, object]) -> int:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return 1

    monkeypatch.setattr("trainer.checkpoint.save", refuse_once)
    run = trained(steps=4, out=str(tmp_path), checkpoint_freq=2)
    assert len(run.steps) == 4
    assert [event["step"] for event in run.checkpoints] == [4]
    assert "Step 2: no checkpoint" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused_before_the_run_opens(trained, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        trained(steps=1, out=str(tmp_path / "file"))


def test_what_the_trainer_tells_fits_the_real_run(trained, tmp_path: Path) -> None:
    """The stand-in takes anything; the signatures of the real Run decide."""
    run = trained(steps=1, out=str(tmp_path), generate_freq=1)
    real = {
        name: inspect.signature(getattr(sidecar.Run, name)) for name in ("step", "log", "text", "checkpoint", "finish")
    }
    from sidecar.client import init

    inspect.signature(init).bind(**run.begun)
    real["step"].bind(None, **run.steps[0])
    real["checkpoint"].bind(None, **run.checkpoints[0])
    real["log"].bind(None, run.logs[0][1], step=1)
    real["text"].bind(None, "name", "text", step=1)
    real["finish"].bind(None, state="failed", reason="x")
