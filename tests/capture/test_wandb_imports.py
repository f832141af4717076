# ruff: noqa: E501 - scripts read better on one line
"""Modules and names that scripts and integrations import from wandb."""

PATHS = """
    wandb.sdk.wandb_run:Run wandb.sdk.lib.config_util:ConfigError wandb.sdk.lib:RunDisabled wandb.sdk.wandb_config:Config
    wandb.sdk.wandb_settings:Settings wandb.util:json_friendly wandb.util:make_artifact_name_safe wandb.util:get_module
    wandb.errors:CommError wandb.errors:UsageError wandb.errors:AuthenticationError wandb.errors.term:termlog
    wandb.sdk.data_types.image:Image wandb.sdk.data_types.table:Table wandb.sdk.data_types.histogram:Histogram
    wandb.sdk.data_types.base_types.wb_value:WBValue wandb.sdk.data_types:video wandb.data_types:WBValue wandb.plot:line
    wandb.sdk.lib.runid:generate_id wandb.sdk.lib.telemetry:context wandb.sdk.lib.disabled:SummaryDisabled
    wandb.sdk.wandb_alerts:AlertLevel wandb.sdk.artifacts.artifact:Artifact wandb.sdk.lib.paths:LogicalPath
    wandb.apis.public:Api wandb.apis.public:Run wandb.env:get_project wandb.wandb_run:Run wandb.sdk.wandb_require:require
    wandb.sdk.lib.ipython:in_jupyter wandb.sdk.lib.filesystem:mkdir_exists_ok wandb.sdk.wandb_metric:Metric
    wandb.sdk.wandb_helper:parse_config wandb.sdk.lib.preinit:PreInitObject wandb.integration.tensorboard:patch
    wandb.sdk.integration_utils.auto_logging:AutologAPI
"""

SCRIPT = f"""
    import importlib, sys
    for path in {PATHS.split()}:
        module, _, name = path.partition(":")
        assert getattr(importlib.import_module(module), name) is not None, path
    import wandb
    assert not hasattr(wandb, "no_such_name") and not hasattr(wandb, "keras")
"""


def test_scripts_find_what_they_import(captured) -> None:
    captured(SCRIPT)


def test_an_integration_of_the_installed_wandb_logs_into_the_sidecar(captured, listener, tmp_path) -> None:
    theirs = tmp_path / "site" / "wandb"
    (theirs / "integration" / "mine").mkdir(parents=True)
    for folder in (theirs, theirs / "integration"):
        (folder / "__init__.py").write_text("raise ImportError('the real wandb was imported')\n")
    (theirs / "integration" / "mine" / "__init__.py").write_text(
        "import wandb\nfrom wandb.sdk.lib import telemetry\n"
        "def log(value):\n    with telemetry.context() as tel: tel.feature.mine = True\n    wandb.log({'mine': value})\n"
    )
    captured("""
    import wandb
    from wandb.integration.mine import log
    wandb.init(project="p")
    log(3)
    """, PYTHONPATH=str(theirs.parent))
    assert [row.metrics for row in listener.rows()] == [{"mine": 3}]


def test_writers_patched_by_hand_follow_the_run(captured, listener) -> None:
    captured("""
    import wandb
    wandb.init(project="p")
    wandb.tensorboard.patch(root_logdir="runs")
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter("runs/a") as writer:
        for step in range(2): writer.add_scalar("loss", 0.5, step)
    """)
    assert [(row.step, row.metrics) for row in listener.rows()] == [(s, {"loss": 0.5, "global_step": s}) for s in range(2)]


def test_a_resumption_file_carries_the_id_of_a_run_that_ended_badly(captured) -> None:
    script = "import wandb; run = wandb.init(project='p', resume='auto'); print(run.id)\n"
    first = captured(script + "raise SystemExit('dies')\n", code=1).stdout
    captured("import os; assert os.path.exists('wandb/wandb-resume.json')")
    second = captured(script + "wandb.finish()\n").stdout
    assert first == second
    assert captured(script).stdout != first


def test_the_environment_counts_as_it_was_at_the_first_use(captured) -> None:
    done = captured("""
    import os, wandb
    first = wandb.init(); first.finish()
    os.environ["WANDB_PROJECT"] = os.environ["WANDB_NAME"] = "changed"
    print(first.project, wandb.init(name="given").project)
    wandb.teardown()
    print(wandb.init().project)
    """, WANDB_PROJECT="envp")
    assert done.stdout.split() == ["envp", "envp", "changed"]


def test_a_script_in_a_repository_gets_its_name_for_a_project(captured, tmp_path) -> None:
    (tmp_path / ".git").mkdir()
    assert captured("import wandb; print(wandb.init().project)").stdout == f"{tmp_path.name}\n"
