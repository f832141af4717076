# ruff: noqa: E501 - scripts and tables read better on one line
"""swanlab, TensorBoard, torch, and the forms that forward to the real library."""

import textwrap

import pytest
from tensorboard.backend.event_processing import event_accumulator

from tests.capture.real_wandb import Stored, rows_of
from tests.capture.same import same


def test_swanlab_under_wandbs_name_as_minimind_uses_it(captured, listener) -> None:
    done = captured("""
    import swanlab as wandb
    run = wandb.init(project="mm", name="sft", id=None, resume=None, config={"lr": 1})
    for step in range(3):
        wandb.log({"loss": 1 / (step + 1), "n": {"a": 1}})
    wandb.log({"a": 1}, step=10)
    wandb.log({"b": 1})
    wandb.log({"a": 2}, step=4)
    wandb.log({"t": wandb.Text("hey"), "img": wandb.Image("x.png"), "big": __import__("numpy").arange(40)})
    wandb.log("not a map"); wandb.log({"x": 1}, step=-1); wandb.log({"o": object(), "kept": 1})
    wandb.config.update({"z": 2}); wandb.config["y"] = 3
    print(wandb.get_run().id == run.id, wandb.run is run, wandb.config.z, run.config.get("lr"))
    wandb.finish()
    try: wandb.log({"a": 1})
    except RuntimeError as error: print("RuntimeError")
    import importlib.metadata; print(importlib.metadata.version("swanlab"))
    """, "swanlab")
    assert done.stdout.splitlines() == ["True True 2 1", "RuntimeError", "0.10.3"]
    (run_id,) = listener.run_ids()
    rows = [(row.step, row.metrics) for row in listener.rows(run_id)]
    assert rows == [
        (0, {"loss": 1.0, "n/a": 1}), (1, {"loss": 0.5, "n/a": 1}), (2, {"loss": 1 / 3, "n/a": 1}), (10, {"a": 1}),
        (11, {"b": 1}), (4, {"a": 2}), (13, {"kept": 1}),
    ]  # fmt: skip
    assert [row.metrics for row in listener.rows(run_id, ("text",))] == [{"t": "hey"}]
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.captured, state.config) == ("mm", "sft", "swanlab", {"lr": 1, "z": 2, "y": 3})
    assert state.ranks[0].rejected == {"media_not_kept": 1, "log_not_a_map": 1, "bad_step": 1, "unsupported_type": 2}


def test_swanlab_keeps_one_number_of_a_name_at_a_step_under_trimmed_names(captured, listener) -> None:
    """The rows are those that swanlab 0.10.3 stored for the same calls."""
    captured("""
    import swanlab, numpy as np, torch
    swanlab.init(project="p")
    for value in (1, True, None, "w", "2.5", float("inf"), np.float32(0.5), torch.tensor([1.5]), torch.ones(2), [1, 2], {"a": {"b": 3}}):
        swanlab.log({"v": value, "i": 1})
    swanlab.log({"s": 1}, step=40); swanlab.log({"s": 2, "new": 1}, step=40); swanlab.log({"s": 3}, step=35)
    for step in (1.5, "3", np.int64(60), -1): swanlab.log({"bad": 1}, step=step)
    swanlab.log({}); swanlab.log({"/a.": 1, "": 1, "./": 1, 7: 1})
    """, "swanlab")
    (run_id,) = listener.run_ids()
    one = {"i": 1.0}
    assert [(row.step, row.metrics) for row in listener.rows(run_id)] == [
        (0, {"v": 1.0, **one}), (1, {"v": 1.0, **one}), (2, one), (3, one), (4, {"v": 2.5, **one}), (5, {"v": float("inf"), **one}),
        (6, {"v": 0.5, **one}), (7, {"v": 1.5, **one}), (8, one), (9, one), (10, {"v/a/b": 3.0, **one}),
        (40, {"s": 1.0}), (40, {"new": 1.0}), (35, {"s": 3.0}), (41, {"a": 1.0, "7": 1.0}),
    ]  # fmt: skip
    assert [(row.step, row.metrics) for row in listener.rows(run_id, ("late",))] == [(40, {"s": 2.0})]


REAL_SWANLAB = """
    class Run:
        def __init__(self, config): self.config, self.logged = dict(config or {}), []
        def log(self, data, step=None): self.logged.append((data, step))
        def finish(self, state="success"): print(len(self.logged), self.config)
    run = None
    def init(project=None, config=None, **_):
        global run
        run = run or Run(config)
        return run
    def log(data, step=None): run.log(data, step)
    def finish(): run.finish()
"""


def test_swanlab_plus_does_both(captured, listener, tmp_path) -> None:
    """Real swanlab and the other test libraries exclude one another; its run has these methods."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "swanlab.py").write_text(textwrap.dedent(REAL_SWANLAB))
    done = captured("""
    import swanlab
    run = swanlab.init(project="pp", experiment_name="nn", config={"lr": 1})
    for i in range(3): swanlab.log({"a": i, "n": {"b": True}})
    swanlab.log({"x": 1, "word": "w"}, step=10)
    run.config["later"] = 2
    swanlab.log({"y": 1})
    swanlab.finish()
    """, "swanlab+", PYTHONPATH=str(tmp_path / "theirs"))
    assert done.stdout == "5 {'lr': 1, 'later': 2}\n"
    (run_id,) = listener.run_ids()
    assert [(row.step, row.metrics) for row in listener.rows(run_id)] == [
        (0, {"a": 0.0, "n/b": 1.0}), (1, {"a": 1.0, "n/b": 1.0}), (2, {"a": 2.0, "n/b": 1.0}), (10, {"x": 1.0}), (11, {"y": 1.0}),
    ]  # fmt: skip
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.config, state.ranks[0].state) == ("pp", "nn", {"lr": 1, "later": 2}, "finished")


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "tensorboardX"])
def test_tensorboard_writers_arrive_and_still_write_their_files(module, captured, listener, tmp_path) -> None:
    captured(f"""
    import torch
    from {module} import SummaryWriter
    writer, other = SummaryWriter("runs/a"), SummaryWriter("runs/val")
    for step in range(3):
        writer.add_scalar("loss", torch.tensor(1.0 / (step + 1)), step)
        other.add_scalar("loss", 2.0, global_step=step)
    writer.add_scalars("group", {{"a": 1, "b": 2}}, 3)
    writer.add_text("sample", "hello", 3)
    writer.add_histogram("h", torch.arange(100.0), 4)
    writer.close(); other.close()
    """, "tensorboard")
    (run_id,) = listener.run_ids()
    rows = [(row.step, row.metrics) for row in listener.rows(run_id)]
    assert rows[:2] == [(0, {"loss": 1.0}), (0, {"val/loss": 2.0})]
    assert rows[-1] == (3, {"group/a": 1, "group/b": 2})
    assert len(rows) == 7
    assert [row.metrics for row in listener.rows(run_id, ("text",))] == [{"sample": "hello"}]
    (histogram,) = listener.rows(run_id, ("histogram",))
    assert (histogram.step, sum(histogram.metrics["h"]["counts"])) == (4, 100)
    assert listener.projector(run_id)[0].state.name == "a"
    for folder, prefix in (("a", ""), ("val", "val/")):
        stored = event_accumulator.EventAccumulator(str(tmp_path / "runs" / folder)).Reload()
        theirs = [(event.step, event.value) for event in stored.Scalars("loss")]
        mine = [(step, metrics[f"{prefix}loss"]) for step, metrics in rows if f"{prefix}loss" in metrics]
        assert [(step, pytest.approx(value, rel=1e-6)) for step, value in theirs] == mine


TRAIN = """
    import torch
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = torch.nn.Linear(32, 96, bias=False), torch.nn.Linear(32, 32, bias=False)
        def forward(self, x):
            q, k, v = self.qkv(x).view(2, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(2, 16, 32))
    torch.manual_seed(0)
    embed, block = torch.nn.Embedding(64, 32), Block()
    model = torch.nn.Sequential(embed, block)
    optimizers = [torch.optim.AdamW(block.parameters(), lr=1e-3), torch.optim.SGD(embed.parameters(), lr=1e-2)]
    losses = []
    def step():
        for micro in range(2):
            loss = model(torch.randint(0, 64, (2, 16))).pow(2).mean()
            loss.backward()
        for optimizer in optimizers: optimizer.step()
        for optimizer in optimizers: optimizer.zero_grad()
        losses.append(loss.item())
"""
TOKENS, MATRICES, ATTENTION = 2 * 2 * 16, 32 * 96 + 32 * 32, 12 * 4 * 8 * 16


def test_a_script_that_logs_nothing_shows_steps_parameters_and_flops(captured, listener) -> None:
    captured(TRAIN + "\n    for _ in range(6): step()\n", "torch")
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",))
    assert [row.step for row in steps] == list(range(6))
    assert {row.metrics["train/learning_rate"] for row in steps} <= {1e-3, 1e-2}
    assert {row.metrics.get("train/flops") for row in steps[:2]} == {None}
    assert {row.metrics["train/flops"] for row in steps[2:]} == {TOKENS * (6 * MATRICES + ATTENTION)}
    state = listener.projector(run_id)[0].state
    assert state.facts["params"] == MATRICES + 64 * 32
    assert state.facts["embedding_params"] == 64 * 32
    assert (state.captured, state.project) == ("torch", "script")


def test_counting_changes_no_loss_by_a_bit(captured, tmp_path, listener) -> None:
    text = TRAIN + "\n    for _ in range(8): step()\n    print([loss.hex() for loss in losses])\n"
    assert captured(text, "torch").stdout == captured(text, "").stdout


def test_steps_of_torch_and_rows_of_wandb_are_one_run_even_when_wandb_begins_late(captured, listener) -> None:
    captured(TRAIN + """
    import wandb
    step(); step()
    wandb.init(project="late", name="run")
    for i in range(4):
        step()
        wandb.log({"loss": losses[-1]})
    """, "wandb,torch", SIDECAR_RUN_ID="given")
    assert listener.run_ids() == ["given"]
    steps = listener.rows("given", ("step",), wait=lambda rows: len(rows) >= 6)
    assert [row.step for row in steps] == list(range(6))
    assert len(listener.rows("given")) == 4
    state = listener.projector("given")[0].state
    assert (state.project, state.name) == ("late", "run")


def test_a_script_that_reports_its_own_steps_is_left_alone(captured, listener, repository) -> None:
    captured(TRAIN + """
    import sidecar
    run = sidecar.init(project="own")
    for i in range(4):
        step()
        run.step(i, loss=losses[-1])
    run.finish()
    step()
    """, "torch", PYTHONPATH=str(repository))
    (run_id,) = listener.run_ids()
    assert [row.step for row in listener.rows(run_id, ("step",))] == [0, 1, 2, 3]


def test_a_compiled_model_is_counted_without_compiling_it_again(captured, listener) -> None:
    done = captured(TRAIN.replace("model = torch.nn.Sequential(embed, block)",
                                  "model = torch.compile(torch.nn.Sequential(embed, block), backend='aot_eager')") + """
    for _ in range(6): step()
    from torch._dynamo.utils import counters
    print(counters["stats"]["unique_graphs"])
    """, "torch")  # fmt: skip
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",))
    assert steps[-1].metrics["train/flops"] == TOKENS * (6 * MATRICES + ATTENTION)
    assert done.stdout.strip() == "1"


def test_an_optimizer_that_stops_stepping_does_not_hold_up_the_count(captured, listener) -> None:
    captured("""
    import torch
    a, b = (torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    for _ in range(3): a.step(); b.step()
    for _ in range(40): a.step()
    for _ in range(2):
        for _ in range(5): a.step()
        b.step()
    """, "torch")
    steps = [row.step for row in listener.rows(kinds=("step",))]
    assert steps == list(range(len(steps)))
    assert 3 + 8 <= len(steps) <= 3 + 40


def test_wandb_plus_does_both(captured, listener, tmp_path) -> None:
    captured("""
    import os; os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    import wandb
    assert "standin" not in wandb.__file__
    with wandb.init(project="pp", config={"a": 1}, name="nn") as run:
        run.define_metric("x", step_metric="s")
        wandb.log({"x": 1, "s": 2})
        wandb.log({"x": 2}, step=4)
        wandb.log({"y": wandb.Histogram([1, 2, 3])}, step=4)
        run.config.update({"b": 2})
        try: run.log({"o": object()})
        except TypeError: pass
        run.log({"late": 1}, step=1)
        run.name, run.tags = "renamed", ("t",)
        run.summary["best"] = 3
    """, "wandb+")
    (run_id,) = listener.run_ids()
    assert [(row.step, row.metrics) for row in listener.rows(run_id)] == [(0, {"x": 1, "s": 2}), (4, {"x": 2, "s": 2})]
    assert [row.step for row in listener.rows(run_id, ("late",))] == [1]
    state = listener.projector(run_id)[0].state
    assert (state.project, state.name, state.config) == ("pp", "renamed", {"a": 1, "b": 2})
    assert (state.tags, state.summary) == (["t"], {"best": 3})
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_looking_whether_a_library_is_there_does_not_use_up_its_capture(captured, listener) -> None:
    """Transformers asks for the spec of wandb long before anything imports it."""
    captured("""
    import os; os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    import importlib.util
    assert importlib.util.find_spec("wandb") is not None
    import wandb
    with wandb.init(project="pp"): wandb.log({"x": 1})
    """, "wandb+")
    assert [row.metrics for row in listener.rows()] == [{"x": 1}]


def test_writers_in_several_threads_lose_no_value(captured, listener) -> None:
    captured("""
    import threading, time
    import torch.utils.tensorboard as tensorboard
    class Writer(tensorboard.SummaryWriter):
        def _get_file_writer(self): time.sleep(0.002); return super()._get_file_writer()
    writer = Writer("runs/a")
    def work(name):
        for step in range(20): writer.add_scalar(name, 1.0, step)
    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
    writer.close()
    """, "tensorboard")
    assert len(listener.rows(wait=lambda rows: len(rows) >= 80)) == 80


def test_sync_tensorboard_makes_the_rows_that_real_wandb_makes_of_event_files(captured, listener, tmp_path) -> None:
    script = """
    import wandb
    wandb.init(project="p", sync_tensorboard=True)
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter("runs/a")
    writer.add_text("hyperparameters", "|lr|")
    for step in range(4):
        writer.add_scalar("charts/SPS", 100 + step, step * 10)
        writer.add_scalar("losses/value_loss", 1.0 / (step + 1), step * 10)
    writer.close()
    """
    (real,), _ = rows_of(script, tmp_path / "real")
    captured(script)
    mine = [Stored(row.step, row.metrics) for row in listener.rows()]
    assert [row.step for row in mine] == [row.step for row in real]
    assert all(same(row.values, theirs.values) for row, theirs in zip(mine, real, strict=True)), (mine, real)


def test_flops_under_autocast_are_counted_in_the_type_they_are_computed_in(captured, listener) -> None:
    captured(TRAIN.replace("loss = model(", "with torch.autocast('cpu', torch.bfloat16): loss = model(") + """
    for _ in range(4): step()
    """, "torch")
    (run_id,) = listener.run_ids()
    assert listener.rows(run_id, ("step",))[-1].metrics["train/flops"] == TOKENS * (6 * MATRICES + ATTENTION)
    assert listener.projector(run_id)[0].state.facts["dtype"] == "bfloat16"


def test_each_rank_of_a_sharded_model_counts_its_own_work(captured, listener) -> None:
    captured("""
    import os, sys
    if os.environ.get("RANK") is None:
        import subprocess
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
        sys.exit(subprocess.call(launch))
    import torch, torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    dist.init_process_group("gloo")
    model = torch.nn.Sequential(torch.nn.Linear(16, 32, bias=False), torch.nn.Linear(32, 16, bias=False))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        model(torch.randn(8, 16)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    dist.destroy_process_group()
    """, "torch", OMP_NUM_THREADS="1")
    (run_id,) = listener.run_ids()
    steps = listener.rows(run_id, ("step",), wait=lambda rows: len(rows) >= 8)
    assert sorted((row.rank, row.step) for row in steps) == [(rank, step) for rank in (0, 1) for step in range(4)]
    # The first layer's input needs no gradient: 4 of its 6 products' worth.
    assert {row.metrics["train/flops"] for row in steps if row.step >= 2} == {8 * (4 + 6) * 16 * 32}
