"""Where a flag's value comes from, what the documents' flags do, and what the sidecar is asked for."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.__main__ import COMMANDS, main
from trainer.config import BACKENDS, CONFIGS, Config, PipelineConfig, SftConfig
from trainer.errors import UserError
from trainer.flags import describe, parse
from trainer.model import ModelConfig
from trainer.monitoring import requested_sinks
from trainer.schedule import plan
from trainer.stages import STAGES, pipeline_config
from trainer.throughput import ThroughputMeter
from trainer.tokenizer import VOCAB_SIZE

FILE = """
batch_size = 5
eval_freq = 70
generation_prompts = ["one", "two"]
[sft]
batch_size = 6
pack = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trainer.toml"
    path.write_text(FILE)
    return path


def test_flag_wins_over_environment_and_that_over_file_and_that_over_default(file: Path, monkeypatch) -> None:
    def chosen(*words: str) -> tuple[int, str | None]:
        config = parse(SftConfig, "sft", words)
        return config.batch_size, config.origins.get("batch_size")

    assert chosen() == (16, None)
    assert chosen("--config", str(file)) == (6, "file")
    monkeypatch.setenv("TRAINER_BATCH_SIZE", "7")
    assert chosen("--config", str(file)) == (7, "environment")
    assert chosen("--config", str(file), "--batch_size", "8") == (8, "flag")


def values_of(field: Any) -> tuple[Any, Any, Any]:
    """Three that make sense, for the file, the variable and the flag."""
    kind, choices = str(field.type), field.metadata["choices"]
    if choices:
        return (*choices, *choices, *choices)[:3]
    if "bool" in kind:
        return True, False, True
    if "tuple" in kind:
        return ("a", "b"), ("c",), ("d", "e f")
    if "int" in kind or "float" in kind:
        numbers = (1, 2, 3) if "int" in kind else (0.2, 0.3, 0.4)
        return {"n_embd": (16, 32, 48), "n_head": (1, 2, 4)}.get(field.name, numbers)
    return "one", "two", "three"


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "switches the other way"])
@pytest.mark.parametrize("command", COMMANDS)
def test_of_every_flag_the_file_the_variable_and_the_flag_win_in_this_order(
    command: str, turned: bool, tmp_path: Path, monkeypatch
) -> None:
    kind, file = CONFIGS[command], tmp_path / "all.toml"
    fields = [field for field in kind.flags().values() if field.name != "epochs"]  # Which excludes --steps.
    in_file, as_variable, as_flag = ({f.name: values_of(f)[layer] for f in fields} for layer in range(3))
    if turned:
        for values in (in_file, as_variable, as_flag):
            values |= {name: not value for name, value in values.items() if isinstance(value, bool)}

    def read(*words: str) -> tuple[dict[str, Any], set[str]]:
        config = parse(kind, command, ["--config", str(file), *words])
        return {name: getattr(config, name) for name in in_file}, set(config.origins.values())

    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in in_file.items()))
    assert read() == (in_file, {"file"})
    for name, value in as_variable.items():
        monkeypatch.setenv(f"TRAINER_{name.upper()}", "|".join(value) if isinstance(value, tuple) else str(value))
    assert read() == (as_variable, {"environment"})
    words: list[str] = []
    for name, value in as_flag.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", "|".join(value) if isinstance(value, tuple) else str(value)]
    assert read(*words) == (as_flag, {"flag"})


def test_a_table_of_the_file_is_for_its_command_alone(file: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRAINER_CONFIG", str(file))
    assert parse(Config, "pretrain", []).batch_size == 5
    sft = parse(SftConfig, "sft", [])
    assert (sft.batch_size, sft.pack, sft.generation_prompts) == (6, True, ("one", "two"))


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("LOG_BACKEND", "tensorboard", "log_backend", "tensorboard"),
        ("WANDB_PROJECT", "p", "project", "p"),
        ("WANDB_ENTITY", "team", "wandb_entity", "team"),
        ("LOG_TRAIN_FREQ", "3", "log_train_freq", 3),
        ("LOG_FREQ", "9", "log_freq", 9),
        ("ENABLE_WANDB", "False", "enable_wandb", False),
        ("EVAL_FREQ", "4", "eval_freq", 4),
        ("EVAL_ITERS", "5", "eval_iters", 5),
        ("GENERATE_FREQ", "6", "generate_freq", 6),
        ("GENERATION_PROMPTS", "a b|c", "generation_prompts", ("a b", "c")),
        ("TRAINER_COMPILE", "yes", "compile", True),
        ("TRAINER_COMPILE", "0", "compile", False),
        ("TRAINER_MAX_ITERS", "8", "steps", 8),
        ("TRAINER_WANDB_PROJECT", "p", "project", "p"),
    ],
)
def test_each_constant_of_the_documents_is_a_variable_too(variable, value, name, expected, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)
    config = parse(Config, "pretrain", [])
    assert getattr(config, name) == expected
    assert config.origins == {name: "environment"}


def test_a_file_serves_all_commands_and_a_whole_number_may_be_written_as_a_float(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text("pack = true\nsteps = 1e2\nbeta = 0.3\nmax_tokens = 5\n[sft]\nepochs = 2\n")
    words = ["--config", str(path)]
    assert parse(Config, "pretrain", words).steps == 100
    sft = parse(SftConfig, "sft", words)
    assert (sft.pack, sft.steps, sft.epochs) == (True, None, 2.0), "its own table wins"


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        (["--epochs", "2"], {"TRAINER_STEPS": "7"}, (None, 2.0)),
        (["--steps", "9"], {"TRAINER_EPOCHS": "7"}, (9, None)),
        ([], {"TRAINER_EPOCHS": "7"}, (None, 7.0)),
    ],
)
def test_of_steps_and_epochs_the_one_that_is_given_more_directly_holds(
    words: list[str], variables: dict[str, str], expected: tuple[int | None, float | None], monkeypatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = parse(Config, "pretrain", words)
    assert (config.steps, config.epochs) == expected
    assert len(config.origins) == 1


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(tmp_path: Path, monkeypatch) -> None:
    """A shell replaces it in --out ~/runs, but neither in --out=~/runs nor in a file."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TRAINER_PREPARED", "~/tokens")
    (tmp_path / "t.toml").write_text('data_config = "~/data.yaml"\n[sft]\nresume = "~/runs"')
    words = ["--out=~/runs", "--from_weight", "midtrain", f"--config={tmp_path}/t.toml", "--generation_prompts", "~"]
    config = parse(SftConfig, "sft", words)
    home = "/home/someone"
    assert (config.out, config.prepared) == (f"{home}/runs", f"{home}/tokens")
    assert (config.data_config, config.resume) == (f"{home}/data.yaml", f"{home}/runs")
    assert (config.from_weight, config.generation_prompts) == ("midtrain", ("~",))


def test_steps_and_epochs_together_are_refused(capsys) -> None:
    assert main(["pretrain", "--steps", "3", "--epochs", "1"]) == 2
    assert "both say how long to train" in capsys.readouterr().err


PIPELINE = """
epochs = 0.5
n_layer = 2
[pipeline]
n_layer = 3
[sft]
n_layer = 4
learning_rate = 5e-5
[ppo]
steps = 3
"""


def test_a_pipeline_takes_each_stages_table_of_the_file(tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(PIPELINE)
    words = ["--config", str(path)]

    def stages(*more: str) -> dict[str, Config]:
        config = parse(PipelineConfig, "pipeline", [*words, *more])
        return {name: pipeline_config(config, name, "g") for name in STAGES}

    found = stages()
    assert {name: config.n_layer for name, config in found.items()} == dict.fromkeys(STAGES, 3) | {"sft": 4}
    assert (found["sft"].learning_rate, found["sft"].origins["learning_rate"]) == (5e-5, "file")
    assert {(config.steps, config.epochs) for name, config in found.items() if name != "ppo"} == {(None, 0.5)}
    assert (found["ppo"].steps, found["ppo"].epochs) == (3, None)
    monkeypatch.setenv("TRAINER_N_LAYER", "5")
    assert {config.n_layer for config in stages().values()} == {5}, "the environment wins over the file's tables, too"
    path.write_text("[sft]\nbatch_size = -1")
    assert main(["pipeline", *words, "--show_config"]) == 2
    assert "--batch_size is -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("batch_sise = 3", "unknown key 'batch_sise'"),
        ("batch_size = 'many'", "batch_size in .* is 'many', which is no int"),
        ("compile = 3", "which is no bool"),
        ("batch_size = 8.7", "batch_size in .* is 8.7, which is no int"),
        ("learning_rate = true", "learning_rate in .* is True, which is no float"),
        ("out = true", "out in .* is True, which is no str"),
        ("run = 1979-05-27", "which is no str"),
        ("[sfft]\nsteps = 1", r"has a table \[sfft\], but there is no such command"),
        ("[pretrain]\npack = true", "unknown key 'pack'"),
        ("[pretrain.deeper]\nsteps = 3", "unknown key 'deeper'"),
        ("steps = 3\nepochs = 1", "--steps and --epochs both say how long to train"),
        ("device = 'tpu'", "'tpu'"),
        ("= 3", "is not TOML"),
        pytest.param(f"steps = {'[' * 100_000}", "is not TOML", id="deep"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=cause) as caught:
        parse(Config, "pretrain", ["--config", str(path)])
    assert "\n" not in caught.value.cause
    with pytest.raises(UserError, match="cannot read"):
        parse(Config, "pretrain", ["--config", str(tmp_path / "missing.toml")])


def test_one_command_prints_every_value_and_its_origin(file: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("EVAL_ITERS", "9")
    assert main(["sft", "--show_config", "--config", str(file), "--epochs", "1"]) == 0
    rows = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert rows["batch_size"] == rows["eval_freq"] == "file"
    assert rows["eval_iters"] == "environment"
    assert rows["epochs"] == "flag"
    assert rows["log_backend"] == "default"
    assert "origins" not in rows
    assert describe(Config()).count("default") == len(describe(Config()).splitlines())


def test_of_several_ranks_one_prints_them(monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["sft", "--show_config"]) == 0
    assert capsys.readouterr().out == ""


def test_the_sft_command_of_the_second_document_is_understood(tmp_path: Path) -> None:
    words = f"--data_config {tmp_path}/general.toml --from_weight midtrain --use_prepared --epochs 1 --batch_size 16"
    config = parse(SftConfig, "sft", [*words.split(), "--use_wandb"])
    assert (config.from_weight, config.use_prepared, config.epochs, config.batch_size) == ("midtrain", True, 1.0, 16)
    assert requested_sinks(config) == ["wandb"]


DOCUMENTED = [
    ("log_backend", "wandb", "tensorboard", "tensorboard"),
    ("wandb_project", "bdh-training", "bdh-experiments", "bdh-experiments"),
    ("wandb_entity", None, "team", "team"),
    ("log_train_freq", 10, "20", 20),
    ("log_freq", 100, "50", 50),
    ("eval_freq", 500, "250", 250),
    ("eval_iters", 100, "10", 10),
    ("generate_freq", 1000, "2000", 2000),
    ("use_wandb", False, None, True),
    ("run", None, "my-sft-run", "my-sft-run"),
    ("epochs", None, "1", 1.0),
    ("batch_size", 16, "8", 8),
    ("from_weight", None, "midtrain", "midtrain"),
    ("data_config", None, "config/data/posttrain/sft/general.yaml", "config/data/posttrain/sft/general.yaml"),
    ("use_prepared", False, None, True),
]
"""Every flag that the documents' commands and argument parsers name: (name, default, a word, what it means)."""


@pytest.mark.parametrize(("name", "default", "word", "meant"), DOCUMENTED)
def test_every_flag_of_the_documents_is_accepted_and_has_their_default(name, default, word, meant, capsys) -> None:
    field = {"wandb_project": "project"}.get(name, name)
    assert getattr(parse(SftConfig, "sft", []), field) == default
    for spelling in (f"--{name}", f"--{name.replace('_', '-')}"):
        config = parse(SftConfig, "sft", [spelling, *([word] if word else [])])
        assert getattr(config, field) == meant
        assert config.origins == {field: "flag"}
    assert main(["sft", "--show_config"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] == field]
    assert line.split() == [field, repr(default), "default"]


def test_the_documents_prompts_are_the_default() -> None:
    prompts = ("To be or not to be", "Once upon a time", "In a galaxy far, far away")
    assert parse(Config, "pretrain", []).generation_prompts == prompts


def test_the_tracker_is_the_documents_choice_of_three_or_several_of_them(tmp_path: Path, monkeypatch, capsys) -> None:
    assert BACKENDS == ("wandb", "tensorboard", "none")
    both = parse(Config, "pretrain", ["--log_backend", "wandb, tensorboard"])
    assert requested_sinks(both) == ["wandb", "tensorboard"]
    assert main(["pretrain", "--log_backend", "wandb,comet"]) == 2
    assert "'comet' (choose from wandb, tensorboard, none" in capsys.readouterr().err
    (tmp_path / "t.toml").write_text('log_backend = ["tensorboard", "wandb"]')
    assert parse(Config, "pretrain", ["--config", str(tmp_path / "t.toml")]).log_backend == "tensorboard,wandb"
    monkeypatch.setenv("LOG_BACKEND", "mlflow")
    with pytest.raises(UserError, match="LOG_BACKEND is 'mlflow'"):
        parse(Config, "pretrain", [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "1000"], (500, 100, 1000)),
        (["--steps", "600"], (500, 100, 300)),
        (["--steps", "300"], (75, 8, 150)),
        (["--steps", "300", "--eval_freq", "500", "--eval_iters", "100", "--generate_freq", "1000"], (500, 100, 1000)),
    ],
)
def test_the_documents_periods_hold_and_only_a_run_shorter_than_them_looks_up_sooner(words, expected) -> None:
    schedule = plan(parse(Config, "pretrain", words), 50)
    assert (schedule.eval_freq, schedule.eval_iters, schedule.generate_freq) == expected


@pytest.mark.parametrize(
    ("words", "sinks"),
    [
        ([], None),
        (["--log_backend", "tensorboard"], ["tensorboard"]),
        (["--log_backend", "none"], ["none"]),
        (["--log_backend", "none", "--log_train_freq", "2"], ["none"]),
        (["--use_wandb"], ["wandb"]),
        (["--log_train_freq", "50"], ["configured:50"]),
        (["--use_wandb", "--log_train_freq", "20"], ["wandb:20"]),
        (["--run", "dummy"], ["dummy"]),
        (["--run", "dummy", "--use_wandb"], ["dummy"]),
        (["--run", "dummy", "--log_backend", "wandb,tensorboard"], ["tensorboard"]),
        (["--log_backend", "tensorboard", "--use_wandb"], ["tensorboard", "wandb"]),
        (["--no-enable_wandb"], ["dummy"]),
        (["--no-enable_wandb", "--log_backend", "wandb,tensorboard"], ["tensorboard"]),
    ],
)
def test_what_is_asked_of_the_sidecar_is_what_the_user_chose(words: list[str], sinks: list[str] | None) -> None:
    """Without a choice the sidecar's own settings hold."""
    assert requested_sinks(parse(Config, "pretrain", words)) == sinks


@pytest.mark.parametrize("off", [{"run": "dummy"}, {"enable_wandb": False}])
def test_one_line_says_what_keeps_a_run_off_wandb(off, trained, capsys) -> None:
    run = trained("pretrain", steps=1, quiet=False, **off)
    assert run.begun["sinks"] == ["dummy"]
    assert capsys.readouterr().out.count("W&B is off: ") == 1
    trained("pretrain", steps=1, quiet=False)
    assert "W&B" not in capsys.readouterr().out


def test_the_choice_group_and_entity_reach_init(trained) -> None:
    begun = trained("pretrain", steps=1, run="dummy", group="g", wandb_entity="team").begun
    assert (begun["sinks"], begun["group"], begun["entity"], begun["name"]) == (["dummy"], "g", "team", "dummy")
    assert "origins" not in begun["config"]


def test_the_configuration_goes_by_the_documents_names(trained) -> None:
    config = trained("pretrain", steps=3, learning_rate=0.01).begun["config"]
    assert {name: config[name] for name in ("n_layer", "n_embd", "batch_size", "learning_rate", "max_iters")} == {
        "n_layer": 1, "n_embd": 32, "batch_size": 4, "learning_rate": 0.01, "max_iters": 3
    }  # fmt: skip
    total = config["model/total_params"]
    assert (config["model/name"], config["model/trainable_params"], config["model/trainable_percent"]) == (
        "gpt",
        total,
        100,
    )
    assert [config[f"hyperparams/{n}"] for n in ("batch_size", "learning_rate", "max_length")] == [4, 0.01, 32]


def test_a_run_that_is_killed_and_resumed_is_one_run_and_its_samples_count_once(trained, tmp_path: Path) -> None:
    flags = {"out": str(tmp_path), "run": "night_{n}", "steps": 6, "batch_size": 4, "nan_loss": "stop"}
    trained("pretrain", **{**flags, "steps": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.throughput.ThroughputMeter.end", killed_at(6))
        with pytest.raises(KeyboardInterrupt):
            trained("pretrain", **flags, checkpoint_freq=4)
    books = json.loads((tmp_path / "runs.json").read_text())
    assert (books["run_number"], books["total_runs"], books["total_samples_trained"]) == (2, 1, (2 + 4) * 4)
    resumed = trained("pretrain", **flags, resume=str(tmp_path))
    assert resumed.begun["name"] == "night_2"
    told = {name: resumed.logged(f"continuous/{name}")[0][1] for name in ("run_number", "total_runs", "uptime_hours")}
    assert (told["run_number"], told["total_runs"]) == (2, 2)
    assert resumed.logged("continuous/total_samples_trained") == [(6, (2 + 6) * 4)]
    assert trained("pretrain", **flags).begun["name"] == "night_3"


def test_books_that_cannot_be_written_do_not_end_a_run(trained, tmp_path: Path, monkeypatch) -> None:
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("runs.json") and Path(target).exists():
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("os.replace", full)
    run = trained("pretrain", steps=2, out=str(tmp_path), checkpoint_freq=1)
    assert run.logged("continuous/total_samples_trained") == [(2, 8)]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["runs.json"]


def killed_at(step: int) -> Any:
    whole = ThroughputMeter.end

    def end(pace: ThroughputMeter, at: int, *told: Any) -> None:
        if at == step:
            raise KeyboardInterrupt
        whole(pace, at, *told)

    return end


def test_runs_on_one_folder_are_numbered_and_counted(trained, tmp_path: Path) -> None:
    runs = [trained("pretrain", steps=2, out=str(tmp_path), run="qwen_run_{n}") for _ in range(2)]
    assert [run.begun["name"] for run in runs] == ["qwen_run_1", "qwen_run_2"]
    for name, expected in {"run_number": [1, 2], "total_runs": [1, 2], "total_samples_trained": [8, 16]}.items():
        assert [run.logged(f"continuous/{name}")[0][1] for run in runs] == expected
    assert runs[1].logged("continuous/uptime_hours")[0][1] > 0
    (tmp_path / "runs.json").write_text("half a fi")
    with pytest.raises(UserError, match="not what this trainer wrote"):
        trained("pretrain", steps=1, out=str(tmp_path))


def test_prompts_of_ones_own_replace_the_documents(trained) -> None:
    run = trained("pretrain", steps=1, generation_prompts=("def ",))
    assert [name for _, name, _ in run.texts] == ["sample/def "]
    assert run.texts[0][2].startswith("def ")


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("TRAINER_BATCHSIZE", "TRAINER_BATCHSIZE is not a variable of the trainer: did you mean TRAINER_BATCH_SIZE?"),
        ("TRAINER_ZZZZZZZZZZ", "TRAINER_ZZZZZZZZZZ is not a variable of the trainer"),
        ("TRAINER_PPO_EPOCHS", None),
        ("TRAINER_CONFIG", None),
        ("TRAINER_MAX_ITERS", None),
    ],
)
def test_a_variable_that_is_no_flags_is_named_in_one_line(variable: str, line: str | None, monkeypatch, capsys) -> None:
    monkeypatch.setenv(variable, "" if variable == "TRAINER_CONFIG" else "4")
    assert main(["sft", "--show_config"]) == 0, "another command's flag is no mistake"
    assert capsys.readouterr().err == (f"trainer: {line}\n" if line else "")
    monkeypatch.setenv("RANK", "1")
    assert main(["sft", "--show_config"]) == 0
    assert capsys.readouterr().err == "", "once, not by every rank"


def test_a_bare_double_dash_before_the_flags_is_passed_over(capsys) -> None:
    assert main(["sft", "--", "--run", "x", "--show_config"]) == 0
    assert "'x'" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_one_line_per_flag(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 110
    assert "--log_backend" in out
    assert "--show_config" in out
    assert "; also -q\n" in out


def test_the_second_documents_import_line_works(capsys, monkeypatch, tmp_path: Path) -> None:
    from trainer.trainer_utils import (  # isort: skip
        get_lr, Logger, is_main_process, lm_checkpoint,
        init_distributed_mode, setup_seed, init_model, SkipBatchSampler, calculate_mfu
    )  # fmt: skip

    assert is_main_process()
    Logger("Epoch:[1/1]")
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()
    Logger("not heard")
    assert capsys.readouterr().out == "Epoch:[1/1]\n"
    assert get_lr(0, 100, 1e-3) == pytest.approx(1.1e-3)
    assert get_lr(100, 100, 1e-3) == pytest.approx(1e-4)
    assert [*SkipBatchSampler(range(7), 2, skip_batches=2)] == [[4, 5], [6]]
    assert len(SkipBatchSampler(range(7), 2, skip_batches=2)) == 2
    shape = ModelConfig(vocab_size=VOCAB_SIZE, n_layer=1, n_head=2, n_embd=16, seq_len=8)
    setup_seed(3)
    model, tokenizer = init_model(shape, from_weight="none")
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert lm_checkpoint(shape, weight="sft", save_dir=str(tmp_path)) is None
    monkeypatch.delenv("RANK")
    assert init_distributed_mode() == 0, "no torchrun"
    lm_checkpoint(shape, weight="sft", model=model, epoch=1, step=7, save_dir=str(tmp_path))
    kept = lm_checkpoint(shape, weight="sft", save_dir=str(tmp_path))
    assert (kept["epoch"], kept["step"]) == (1, 7)
    assert all(torch.equal(kept["model"][name], weight) for name, weight in model.state_dict().items())
    with pytest.raises(UserError, match="no weights at"):
        init_model(shape, from_weight="sft", save_dir=str(tmp_path))
    assert calculate_mfu(6e9, 50_000, "NVIDIA H100 80GB HBM3") == pytest.approx(100 * 3e14 / 989.4e12, rel=0.01)
