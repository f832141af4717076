# ruff: noqa: E501 - scripts and tables read better on one line
"""The same script under real wandb, offline, and under capture: row by row the same."""

from pathlib import Path

import pytest

from tests.capture.real_wandb import Stored, rows_of
from tests.capture.same import same

PREAMBLE = "import wandb, numpy as np, torch, datetime, decimal, enum, pathlib\n"

SCRIPTS = {
    "steps are counted, given, merged, skipped and open at the end": """
        run = wandb.init(project="p")
        wandb.log({"a": 1})
        wandb.log({"b": 2.5}, commit=False)
        wandb.log({"a": 3, "c": True, "d": None, "e": "txt"})
        wandb.log({"x": 1}, step=10)
        wandb.log({"y": 1}, step=10)
        wandb.log({"x": 2}, step=11)
        wandb.log({"z": 1})
        wandb.log({"z": 2})
        wandb.log({})
        wandb.log({"a": 1}, step=30, commit=True)
        wandb.log({"a": 2}, step=31, commit=False)
        wandb.log({"a": 5}, commit=False)
        wandb.log({"f": 1})
        wandb.log({"g": 1}, step=np.int64(40))
        wandb.log({"h": 1}, step=torch.tensor(41))
        wandb.log({"h": 2}, 42, True)
        wandb.log({"i": 1}, commit=0)
        print(run.step)
        wandb.log({"tail": 1}, step=60)
    """,
    "scalars of every library arrive as numbers": """
        run = wandb.init(project="p")
        run.log({"np": np.float32(0.1), "i": np.int64(3), "b": np.bool_(True), "u": np.uint8(3), "f16": np.float16(0.1),
                 "nan": np.float64("nan"), "l": np.longdouble(0.5), "zero_d": np.array(5.5), "one": np.array([2.5]),
                 "d": np.datetime64("2020-01-01"), "s": np.str_("word")})
        run.log({"t": torch.tensor(1.5), "t1": torch.tensor([1.5]), "bf": torch.tensor(0.1, dtype=torch.bfloat16),
                 "flag": torch.tensor(True), "grad": torch.tensor([1.0], requires_grad=True), "int": torch.tensor(7)})
        run.log({"nan": float("nan"), "inf": float("inf"), "ninf": -float("inf"), "negative_zero": -0.0, "big": 2**70,
                 "huge": 10**30, "none": None, "true": True, "text": "words", "empty": ""})
    """,
    "lists, arrays and maps keep their shape": """
        run = wandb.init(project="p")
        run.log({"nested": {"a": {"b": 1}, "c": 2}, "l": [1, 2.5], "t": (1, 2), "e": [], "m": {}, "q": {"r.s": 1}})
        run.log({"a": np.arange(3), "t": torch.tensor([1.0, 2, 3]), "two": torch.ones(2, 2), "none": np.zeros(0),
                 "text": np.array(["a", "b"]), "o": np.array([1, 2], dtype=object), "flags": torch.tensor([True, False])})
        run.log({"l": [{"a": np.float32(1)}, np.int64(3), torch.tensor(2.0)], "n": [float("nan"), 1.0], "k": {1: 2}})
        run.log({"a": {"b": 1}}, step=10)
        run.log({"a": {"c": 2}}, step=10)
        run.log({"a": {"b": 1}}, step=11)
        run.log({"a": 3}, step=11)
        run.log({"a": 3}, step=12)
        run.log({"a": {"b": 3}}, step=12)
        run.log({"": 1, "_own": 2, "_step": 77, "_runtime": 5, "k": 1})
    """,
    "objects arrive as the words wandb has for them": """
        class Colour(enum.Enum):
            RED = 1
        run = wandb.init(project="p")
        for value in (decimal.Decimal("1.5"), pathlib.Path("/x"), Colour.RED, datetime.date(2020, 1, 1), 1j, 2 + 3j, b"ab",
                      datetime.datetime(2020, 1, 1), datetime.timedelta(hours=25, seconds=1.5), {1, }, frozenset([1]), int,
                      len, datetime.time(1, 2), __import__("collections").deque([1, 2])):
            run.log({"v": value})
    """,
    "odd values and odd names arrive as wandb has them": """
        import fractions
        run = wandb.init(project="p")
        values = [2**63, -2**63, 2**64, 12345678901234567890, 10**400, torch.tensor(1j), np.timedelta64(3, "s"), np.bytes_(b"x"),
                  np.array([{"a": 1}]), fractions.Fraction(1, 3), iter([1, 2]), map(abs, [-1]), complex("nan"), {True: 1},
                  datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc), np.arange(3, dtype="complex64")[:1]]
        for value in values:
            run.log({"v": value, "n": {"v": value if not hasattr(value, "__next__") else 1}})
        for name in (" ", ".", "a.", ".a", "a..b", "/", "a b", "é", "日本", "\\n", "_private", "*", "x" * 200, "Σ", "1"):
            run.log({name: 1})
        run.log({"_timestamp": 1, "kept": 1})
        data = {"a": 1, "n": {"b": 1}}
        run.log(data, commit=False)
        data["a"] = 2
        data["n"]["b"] = 3
        run.log({"c": 1, "n": {}})
        run.log({"a": 1, "a.b": 2})
        run.log({"s": 1.5}, step=100)
        run.log({"s": {}}, step=100)
        run.log({f"layer{i}/{j}": i * j for i in range(60) for j in range(10)})
    """,
    "definitions add up, and step metrics have step metrics": """
        def run(*definitions):
            run = wandb.init(project="p", reinit=True)
            for name, options in definitions:
                run.define_metric(name, **options)
            for row in ({"gs": 3, "ep": 4}, {"a": 1}, {"gs": True}, {"a": 2}, {"gs": "word"}, {"a": 3}, {"a": 1, "gs": {"k": 1}},
                        {"gs": float("nan")}, {"a": 1}, {"n": {"x": 1}}, {"b": 1}, {"c": [1]}, {"gs": 7, "b": 2}, {"a": None}):
                run.log(row)
        run(("a", {"step_metric": "gs"}), ("a", {"summary": "min"}))
        run(("a", {"step_metric": "gs"}), ("a", {"summary": "min", "overwrite": True}))
        run(("a", {"step_metric": "gs"}), ("a", {"step_metric": "ep"}))
        run(("a", {"step_metric": "gs", "step_sync": False}))
        run(("a", {"step_metric": "gs"}), ("a", {"step_metric": "gs", "step_sync": False}))
        run(("a", {"summary": "max"}), ("*", {"step_metric": "gs"}))
        run(("n.x", {"step_metric": "gs"}), ("a", {"step_metric": "a"}))
    """,
    "a step metric comes into the rows that lack it": """
        run = wandb.init(project="p")
        run.define_metric("gs")
        run.define_metric("*", step_metric="gs", step_sync=True)
        run.log({"b": 0})
        run.log({"gs": 1, "a": 1})
        run.log({"b": 2})
        run.log({"c/d": 2}, commit=False)
        run.log({"gs": 5})
        run.log({})
        run.log({"gs": None, "e": 3})
        run.log({"e": 4})
        run.log({"_hidden": 1})
        run.log({"s": "txt", "n": {"x": 1}})
    """,
    "refused calls change nothing": """
        run = wandb.init(project="p")
        run.log({"a": 1}, step=1)
        class X: pass
        for data in ({"o": X()}, {1: 2}, [1], None, {"d": torch.float32}, {"r": range(3)}, {"s": slice(1)}, {"b": b"\\xff"},
                     {"a": 1, "x": object()}):
            try:
                run.log(data)
                print("taken", data)
            except Exception as error:
                print(type(error).__name__, str(error).split(" at 0x")[0])
        for step in (1.5, "3", True, float("nan"), 10**20, torch.tensor(2.5)):
            try:
                run.log({"bad": 1}, step=step)
                print("taken", step)
            except Exception as error:
                print(type(error).__name__, error)
        for commit in ("yes", 1.5):
            try:
                run.log({"bad": 1}, commit=commit)
            except Exception as error:
                print(type(error).__name__, error)
        print(run.step)
        run.log({"b": 1})
        run.finish()
        for call in (lambda: run.log({"a": 1}), lambda: wandb.log({"a": 1}), lambda: wandb.config.x,
                     lambda: wandb.summary["x"], lambda: wandb.define_metric("x"), lambda: wandb.config.__setitem__("a", 1)):
            try:
                print(call())
            except Exception as error:
                print(type(error).__name__, type(error).__module__.split(".")[0], str(error).replace(run.id, "ID"))
        print(wandb.run, wandb.finish(), run.finish())
    """,
    "several runs in one process": """
        first = wandb.init(project="p")
        print(wandb.init() is first, wandb.run is first, wandb.config is first.config)
        wandb.log({"first": 1}, step=3)
        second = wandb.init(project="q", reinit=True)
        print(first._is_finished, second.project, second.step)
        wandb.log({"second": 1})
        with wandb.init(project="r", reinit="finish_previous") as third:
            third.log({"third": 1})
            third.log({"third": 2}, commit=False)
        print(wandb.run)
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_captured_rows_are_those_real_wandb_stores(name: str, tmp_path: Path, captured, listener) -> None:
    script = PREAMBLE + __import__("textwrap").dedent(SCRIPTS[name])
    expected, printed = rows_of(script, tmp_path / "real")
    done = captured(script)
    assert done.stdout == printed
    ids = sorted(listener.run_ids(), key=lambda run_id: listener.projector(run_id)[0].state.started_ns)
    assert len(ids) == len(expected)
    for run_id, rows in zip(ids, expected, strict=True):
        found = [Stored(row.step, row.metrics) for row in listener.rows(run_id)]
        assert [row.step for row in found] == [row.step for row in rows]
        for mine, real in zip(found, rows, strict=True):
            assert same(mine.values, real.values), (mine, real)
