# ruff: noqa: E501 - scripts and tables read better on one line
"""What scripts and integrations reach for besides log: the same under real wandb, offline, and under capture."""

import textwrap
from pathlib import Path

import pytest
from wandb import Settings

from tests.capture.real_wandb import rows_of

SCRIPTS = {
    "configuration": """
        import argparse, dataclasses, enum
        class Colour(enum.Enum):
            RED = 1
        @dataclasses.dataclass
        class Data:
            x: int = 1
        run = wandb.init(project="p", config={"lr": 0.1, "nested": {"b": (1, 2)}, "f": print, "n": np.float32(1.5),
                                              "none": None, "colour": Colour.RED, "data": Data(), "t": torch.ones(2) / 2,
                                              "dtype": torch.float32, "path": pathlib.Path("/x"), "nan": float("nan")})
        print(dict(run.config), run.config)
        run.config["a"] = 1
        attempts = [lambda: run.config.__setitem__("a", 2), lambda: run.config.update({"lr": 3}), lambda: run.config.zz,
                    lambda: run.config["zz"], lambda: run.config.update(7), lambda: setattr(run, "foo", 1)]
        for attempt in attempts:
            try:
                print(attempt())
            except Exception as error:
                print(type(error).__module__, type(error).__name__, error)
        run.config.b = 3
        run.config.update({"a": 5}, allow_val_change=True)
        run.config.setdefaults({"a": 7, "c": 1})
        run.config.update(argparse.Namespace(q=1, w="s"))
        run.config["--dashed"] = 4
        print(run.config.get("zz"), run.config.get("zz", 5), "a" in run.config, list(run.config.keys()), run.config.items())
        print(run.config.as_dict() == dict(run.config), run.config.a, getattr(run.config, "none_such", "fallback"))
        from wandb.sdk.lib.config_util import ConfigError
        print(issubclass(ConfigError, wandb.Error))
        print(wandb.config is run.config, wandb.config.b)
    """,
    "summary": """
        run = wandb.init(project="p")
        for name, how in (("mn", "min"), ("mx", "max"), ("me", "mean"), ("no", "none"), ("fi", "first"), ("cp", "copy"),
                          ("all", "min,max,mean,last"), ("gl/*", "max")):
            run.define_metric(name, summary=how)
        names = ("mn", "mx", "me", "no", "fi", "cp", "all", "gl/a", "plain")
        for value in (2, 1, 3, 2.5):
            run.log({name: value for name in names})
        def show(value):
            return {key: show(value[key]) for key in sorted(value.keys())} if hasattr(value, "keys") else value
        print({name: show(run.summary.get(name)) for name in names if name != "all"})
        print(show(run.summary["all"]))
        run.summary["best"] = 3
        run.summary.update({"z": 2})
        run.summary["x"] = {"y": 1}
        print(run.summary["best"], run.summary.z, show(run.summary["x"]), run.summary["x"]["y"], run.summary.get("none", 7))
        del run.summary["z"]
        for attempt in (lambda: run.summary["z"], lambda: run.summary.zz):
            try:
                print(attempt())
            except Exception as error:
                print(type(error).__name__, error)
        run.summary["plain"] = 99
        run.log({"q": 1})
        print(run.summary["plain"])
        run.log({"plain": 5, "none": None})
        print(run.summary["plain"], run.summary.get("none"))
        run.log({"pending": 5}, commit=False)
        print(run.summary.get("pending"))
    """,
    "what a run says of itself": """
        run = wandb.init(project="proj", name="nm", id="myid", group="g", job_type="train", tags=["a"], notes="note")
        print(run.name, run.id, run.project, run.entity, run.path, run.url, run.group, run.job_type, run.tags, run.notes)
        print(run.step, run.resumed, run.starting_step, run.disabled, run.sweep_id, os.path.isdir(run.dir))
        print(os.path.basename(run.dir), os.path.basename(run.sync_dir).split("-")[-1], type(run.start_time).__name__)
        print(type(run), isinstance(run, wandb.Run), isinstance(run, wandb.sdk.wandb_run.Run), wandb.wandb_run.Run is wandb.Run)
        run.name = "other"
        run.tags += ("b",)
        print(run.name, run.tags, wandb.run is run, wandb.run.id)
        print(wandb.watch(torch.nn.Linear(1, 1)), wandb.unwatch(), wandb.alert("t", "x"), wandb.mark_preempting())
        print(wandb.define_metric("q", step_metric="zz").name, wandb.__version__)
        for attempt in (lambda: run.define_metric(3), lambda: run.define_metric("a*b"), lambda: run.define_metric(""),
                        lambda: run.define_metric("x", summary="bogus"), lambda: run.alert("a", "b", "LOUD"),
                        lambda: run.define_metric("x", goal="minimize"), lambda: wandb.init(id="a/b"),
                        lambda: wandb.init(project="a/b"), lambda: wandb.init(bogus=1), lambda: wandb.init(resume="must"),
                        lambda: wandb.Histogram(np_histogram=([1], [1])), lambda: wandb.Histogram([float("nan"), 1.0])):
            try:
                print(attempt())
            except Exception as error:
                print(type(error).__name__, str(error)[:60])
        import importlib.metadata
        print(importlib.metadata.version("wandb"))
        from lightning_utilities.core.imports import RequirementCache
        print(bool(RequirementCache("wandb>=0.12.10")))
        from wandb.sdk.lib import RunDisabled
        from wandb.sdk.wandb_settings import Settings
        print(isinstance(run, RunDisabled), wandb.Settings is Settings, copy.deepcopy(run) is run)
    """,
    "disabled": """
        run = wandb.init(mode="disabled", config={"a": 1}, project="p")
        print(run.log({"a": 1}), run.project, run.url, run.step, dict(run.summary), dict(run.config), wandb.run is run)
        print(isinstance(run, wandb.Run), run.disabled, run.define_metric("x").name, run.watch(None), run.save("x"))
        wandb.log({"b": 1})
        wandb.config.update({"b": 2})
        run.finish()
        print(wandb.run)
    """,
    "settings and environment": """
        os.environ["WANDB_PROJECT"], os.environ["WANDB_NAME"], os.environ["WANDB_TAGS"] = "envp", "envn", "x,y"
        os.environ["WANDB_RUN_GROUP"], os.environ["WANDB_NOTES"] = "envg", "note"
        run = wandb.init()
        print(run.project, run.name, run.tags, run.group, run.notes)
        run.finish()
        run = wandb.init(project="arg", settings=wandb.Settings(run_name="fromsettings", run_group="sg"))
        print(run.project, run.name, run.group)
        print(run.settings.project, run.settings.run_name)
        run.finish()
        run = wandb.init(settings={"project": "dictp"})
        print(run.project)
        wandb.finish(exit_code=0)
    """,
    "settings that nobody made": """
        run = wandb.init(project="p", name="n", id="given")
        settings = run.settings
        started = settings.timespec
        left_out = {"_args", "anonymous", "credentials_file", "program", "settings_system", "x_start_time", "x_stats_pid"}
        names = [name for name in NAMES if name not in left_out and "coreweave" not in name]
        here = os.getcwd()
        for name in names:
            print(name, repr(getattr(settings, name)).replace(started, "TIME").replace(here, "HERE"))
        print({"run_id", "mode", "entity", "files_dir", "run_url"} <= set(settings.model_dump()), dict(settings)["quiet"], os.path.basename(settings.program))
        print(hasattr(settings, "none_such"))
        print(wandb.Settings().mode, wandb.Settings().silent, wandb.Settings(init_timeout="30").init_timeout)
        os.environ["WANDB_QUIET"], os.environ["WANDB_INIT_TIMEOUT"] = "true", "300"
        wandb.teardown()
        print(wandb.setup().settings.quiet, wandb.setup().settings.init_timeout)
    """,
    "errors before init": """
        for attempt in (lambda: wandb.log({"a": 1}), lambda: wandb.config.x, lambda: wandb.config["x"],
                        lambda: wandb.summary["x"], lambda: wandb.define_metric("x"), lambda: wandb.save("x"),
                        lambda: wandb.watch(None), lambda: wandb.alert("a", "b"), lambda: setattr(wandb.config, "a", 1),
                        lambda: wandb.run.id, lambda: wandb.finish(), lambda: wandb.config.update({})):
            try:
                print(attempt())
            except Exception as error:
                print(type(error).__name__, error)
        print(issubclass(wandb.CommError, wandb.Error), issubclass(wandb.UsageError, wandb.Error), wandb.login())
    """,
}
SETTINGS = sorted({*Settings.model_fields, *Settings.model_computed_fields})
PREAMBLE = "import copy, os, pathlib, numpy as np, torch, wandb, wandb.wandb_run\n"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_the_same_as_under_real_wandb(name: str, tmp_path: Path, captured) -> None:
    script = PREAMBLE + f"NAMES = {SETTINGS}\n" + textwrap.dedent(SCRIPTS[name])
    if name == "errors before init":
        script = script.replace(", wandb.login()", "")
    _, printed = rows_of(script, tmp_path / "real")
    assert captured(script, WANDB_MODE="offline", WANDB_SILENT="true").stdout == printed
