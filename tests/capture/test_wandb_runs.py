# ruff: noqa: E501 - scripts read better on one line
"""Whole runs of many kinds of script under real wandb and under capture: rows, configuration, summary and labels."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.capture.real_wandb import Stored, runs_of
from tests.capture.same import same, without

MEASURED = ("dt", "tok_per_sec", "time", "runtime", "per_second", "SPS")

LOOPS = {
    "nanochat, nanoGPT and MiniMind": """
        import wandb, torch, time, argparse
        run = wandb.init(project="nanochat", name="d4", config=dict(run="d4", depth=4, target_flops=-1.0, matrix_lr=0.02))
        for step in range(21):
            if step % 5 == 0:
                run.log({"step": step, "total_training_flops": 6e6 * step, "val/bpb": 3.0 - step * 0.01})
            if step and step % 10 == 0:
                run.log({"step": step, "core_metric": 0.1, "centered_results": {"hellaswag": 0.01 * step, "arc": {"easy": 0.1}}})
            if step % 2 == 0:
                run.log({"step": step, "train/loss": 1 / (step + 1), "train/dt": time.time(), "train/tok_per_sec": 5, "train/mfu": 1.2})
        run.finish()
        wandb.init(project="owt", name="gpt2", config={"learning_rate": 6e-4, "compile": False, "dtype": "bfloat16"})
        for i in range(3):
            wandb.log({"iter": i, "train/loss": torch.tensor(10.8 - i), "val/loss": torch.tensor(10.9), "lr": 1e-4 * i, "mfu": -100.0})
        wandb.finish()
        args = argparse.Namespace(epochs=2, learning_rate=5e-4, out_dir=None)
        wandb.init(project="MiniMind-Pretrain", name="Epoch-2", id=None, resume=None, config=args)
        for step in range(0, 10, 3):
            wandb.log({"loss": torch.tensor(2.0 - step / 10).item(), "aux_loss": 0.0, "lr": 5e-4})
    """,
    "torchtune, OpenRLHF, Megatron, timm and YOLO": """
        import wandb, torch, numpy as np, argparse, collections
        run = wandb.init(project="torchtune", entity=None, group=None)
        run.config.update({"resolved": {"lr": 1e-4}}, allow_val_change=True)
        wandb.define_metric("global_step")
        wandb.define_metric("*", step_metric="global_step", step_sync=True)
        for step in range(1, 6):
            wandb.log({"loss": 2.0 / step, "tokens": 10 * step, "global_step": step})
            if step % 2 == 0:
                wandb.log({"val_loss": torch.tensor(1.0 / step), "global_step": step})
        wandb.finish()
        wandb.init(project="openrlhf", name="ppo", config={"a": {"b": 1}}, reinit=True)
        for kind, axis in (("train", "global_step"), ("eval", "epoch")):
            wandb.define_metric(f"{kind}/{axis}")
            wandb.define_metric(f"{kind}/*", step_metric=f"{kind}/{axis}", step_sync=True)
        for i in range(1, 8):
            wandb.log({"train/policy_loss": 0.1 * i, "train/kl": 0.0, "train/global_step": i})
            if i % 3 == 0:
                wandb.log({"eval/acc": 0.5, "eval/epoch": i // 3})
        wandb.log({"train/x": 1}); wandb.log({"eval/y": 1, "other": 2})
        wandb.run.summary["best"] = 0.5
        wandb.finish()
        wandb.init(project="megatron", name="exp", config=dict(lr=1e-4))
        for it in range(1, 8):
            wandb.log({"learning-rate": 1e-4 * it}, it); wandb.log({"lm loss": torch.tensor([1.0 / it])}, it)
            wandb.log({"grad-norm": np.float32(0.5)}, it)
            if it == 5: wandb.log({"late": 1}, it - 2)
        wandb.finish()
        args = argparse.Namespace(lr=0.1, model="resnet", nested=None, tup=(1, 2))
        wandb.init(project="timm", config=args)
        for e in range(3):
            wandb.log(collections.OrderedDict(epoch=e, train_loss=1.0 / (e + 1), eval_top1=50 + e))
        wandb.config.update(args, allow_val_change=True)
        wandb.finish()
        run = wandb.init(project="YOLOv5", name="exp", job_type="Training", resume="allow", allow_val_change=True)
        for epoch in range(3):
            run.log({"train/box_loss": 0.1, "metrics/mAP": np.float64(0.2 + epoch)}, step=epoch + 1)
            run.log({"lr/pg0": 0.01}, step=epoch + 1)
        run.summary.update({"best/epoch": 2, "best/mAP": 0.9})
    """,
    "names, tags and notes that change": """
        import wandb
        run = wandb.init(project="one", name="A", tags=["x"], notes="n", group="g", job_type="j", config={"a": 1})
        wandb.log({"a": 1})
        run.name = "renamed"; run.notes = "changed"; run.tags = run.tags + ("y",)
        other = wandb.init(project="three", reinit="create_new", name="C")
        other.log({"c": 1}); wandb.log({"a": 2}); other.log({"c": 2}, step=7); run.log({"a": 3}, commit=False)
        wandb.init(project="four", reinit="finish_previous"); wandb.log({"d": 1})
        with wandb.init(project="five", reinit=True) as last: last.log({"h": 1}); last.log({"h": 2}, commit=False)
        wandb.init(config={"x": 1}); print(wandb.run.project)
    """,
    "a summary of the script's own": """
        import wandb, numpy as np, torch
        def run(*definitions):
            run = wandb.init(project="p", reinit=True)
            for name, summary in definitions: run.define_metric(name, summary=summary)
            return run
        for how in ("min", "max", "mean", "last", "first", "none", "copy", "min,max", "mean,last", "copy,min"):
            r = run(("a", how), ("g/*", how))
            for value in (3, 1, 2.5): r.log({"a": value, "g/x": value, "b": value, "n": {"m": value}})
            r.summary["best"] = 7; r.log({"c": 1})
        r = run(("a", "min,max"))
        for value in (2, float("nan"), 1): r.log({"a": value, "b": value})
        r = run(("a", "min"), ("a", "max"))
        for value in (2, 1, "word", True): r.log({"a": value})
        r = run(("a", "max")); r.log({"a": 2}); r.summary["a"] = 9; r.log({"b": 1})
        r = run(); r.log({"a": 2}); r.summary["a"] = 9; r.summary["x"] = {"y": 1}; r.log({"a": 3}); r.summary.update({"z": "word"})
        r = run(); r.summary.update({"np": np.float32(0.5), "t": torch.tensor(2.5), "l": [1, 2], "gone": 1}); del r.summary["gone"]
    """,
    "configuration as it is sent": """
        import wandb, numpy as np, torch, enum, dataclasses, pathlib, datetime
        class Colour(enum.Enum): RED = 1
        @dataclasses.dataclass
        class Data: x: int = 1
        given = [1, 2.0, 2.5, "s", None, True, (1, 2), {"n": {"m": 1.0}}, {}, float("nan"), float("inf"), np.float32(0.1), np.arange(3),
                 np.zeros((2, 2)), np.arange(50), torch.tensor(1.5), torch.float32, Colour.RED, Data(), pathlib.Path("/x"), {1}, print,
                 datetime.datetime(2020, 1, 1), range(3), slice(1, 2), 2**70, 1j, {1: 2}, frozenset([1]), np.bool_(True), 1e22]
        run = wandb.init(project="p", config={f"v{i}": value for i, value in enumerate(given)})
        for key in sorted(run.config.keys()): print(key, type(run.config[key]).__name__, sorted(run.config[key].items()) if key == "v24" else run.config[key])
        run.config.update({"v0": 5}, allow_val_change=True); run.config.later = 1.0; print(run.config.later, [key for key in run.config][:2])
    """,
}

GENERATED = """
import random, wandb, numpy as np, torch
names = ["loss", "acc", "a.b", "a/b", "a", "lr", "x y", "é", "_private", "step", "epoch"]
def value(r):
    return r.choice([lambda: r.random(), lambda: r.randint(-5, 10**6), lambda: r.random() < 0.5, lambda: "w%d" % r.randint(0, 9), lambda: None,
        lambda: float("nan"), lambda: float("inf"), lambda: 2**r.randint(50, 70), lambda: [1, 2.5, None], lambda: (1, 2),
        lambda: {"x": r.randint(0, 3), "y": {"z": r.random()}}, lambda: {}, lambda: [], lambda: np.float32(r.random()), lambda: np.int32(3),
        lambda: torch.tensor(r.random()), lambda: torch.tensor([r.random()] * 3), lambda: np.array([1, 2]), lambda: 1e300, lambda: -0.0])()
for seed in range(SEEDS):
    r = random.Random(seed)
    run = wandb.init(project="p", reinit=True)
    at = 0
    if r.random() < 0.4: run.define_metric("*", step_metric=r.choice(["gs", "epoch"]))
    for _ in range(r.randint(3, 40)):
        given = {}
        if r.random() < 0.45:
            at += r.choice([-2, -1, 0, 0, 0, 1, 1, 1, 2, 7])
            given["step"] = at
        if r.random() < 0.3: given["commit"] = r.choice([True, False])
        run.log({r.choice(names): value(r) for _ in range(r.randint(0, 4))}, **given)
    print(seed, run.step)
"""


def compared(script: str, folder: Path, captured: Any, listener: Any) -> list[tuple[Any, Any]]:
    """(rows and state as captured, the run as real wandb stored it) of each run; both printed the same."""
    real, printed = runs_of(script, folder / "real")
    assert captured(script).stdout == printed
    ids = sorted(listener.run_ids(), key=lambda run_id: listener.projector(run_id)[0].state.started_ns)
    assert len(ids) == len(real)
    return [(listener.projector(run_id), run) for run_id, run in zip(ids, real, strict=True)]


def rows_are_equal(rows: list[Any], real: list[Stored]) -> None:
    mine = [Stored(row.step, row.metrics) for row in rows if row.kind == "log"]
    assert [row.step for row in mine] == [row.step for row in real]
    for row, theirs in zip(mine, real, strict=True):
        assert same(without(row.values, MEASURED), without(theirs.values, MEASURED)), (row, theirs)


@pytest.mark.parametrize("name", LOOPS)
def test_a_run_is_in_all_respects_what_real_wandb_stores(name: str, tmp_path: Path, captured, listener) -> None:
    for (projector, rows), real in compared(textwrap.dedent(LOOPS[name]), tmp_path, captured, listener):
        state = projector.state
        rows_are_equal(rows, real.rows)
        assert same(state.config, real.config)
        mine = {"project": state.project, "name": state.name, "group": state.group, "tags": state.tags, "notes": state.notes}
        assert mine == real.labels
        assert same(*(without(tree, MEASURED) for tree in (summary_of(rows, state.summary), without_none(real.summary))))


def test_generated_calls_make_the_rows_real_wandb_stores(tmp_path: Path, captured, listener) -> None:
    for (_, rows), real in compared(GENERATED.replace("SEEDS", "25"), tmp_path, captured, listener):
        rows_are_equal(rows, real.rows)


def summary_of(rows: list[Any], told: dict[str, Any]) -> dict[str, Any]:
    """What an outlet makes of a run: the last value of each name, and over it what the script told."""
    tree: dict[str, Any] = {}
    for row in rows:
        for name, value in row.metrics.items() if row.kind == "log" else ():
            *way, last = name.split(".")
            at = tree
            for key in way:
                at = at.setdefault(key, {})
            at[last] = value
    return without_none({**tree, **told})


def without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if value is not None}
