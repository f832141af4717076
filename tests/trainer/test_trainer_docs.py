"""docs/trainer.md and the commands in the trainer's own module docstrings, tried."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import tasks
from trainer.__main__ import COMMANDS, main
from trainer.config import CONFIGS
from trainer.data.quality import DataReport
from trainer.flags import parse
from trainer.tasks.known_datasets import KNOWN_DATASETS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/trainer.md").read_text()
SMALL = {
    "STEPS": "2", "N_LAYER": "1", "N_HEAD": "2", "N_EMBD": "32", "BATCH_SIZE": "4", "THREADS": "1", "EVAL_ITERS": "1",
    "EVAL_EXAMPLES": "2", "MAX_REPLY": "6", "MAX_TOKENS": "4", "DATA_BYTES": "300000", "GENERATION_PROMPTS": "a",
}  # fmt: skip
OPTION = re.compile(r"^ {4,}((?:sidecar run -- |torchrun [\w=. -]+ )?(?:python )?-m trainer .*)$", re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words behind "-m trainer" of each indented command line, comments and remarks taken off."""
    lines = [re.split(r" {3,}|\s#", line)[0] for line in OPTION.findall(text)]
    return [shlex.split(line.split("-m trainer ", 1)[1]) for line in lines]


def of_docstrings() -> list[list[str]]:
    trees = (ast.parse(path.read_text()) for path in sorted((ROOT / "trainer").rglob("*.py")))
    found = [words for tree in trees for words in commands(ast.get_docstring(tree, clean=False) or "")]
    return [words for words in found if words[0] in COMMANDS]


@pytest.mark.parametrize("words", commands(PAGE) + of_docstrings(), ids=" ".join)
def test_every_command_that_is_shown_is_understood(words: list[str]) -> None:
    if words[-1] != "--help":
        name, *rest = (word for word in words if word not in ("--", "--show_config"))
        parse(CONFIGS[name], name, rest)


def test_many_commands_are_shown() -> None:
    assert len(commands(PAGE)) >= 15
    assert len(of_docstrings()) >= 15


def test_the_stages_by_hand_work_one_after_the_other_as_written(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    monkeypatch.setattr("trainer.monitoring.measured_peak_flops", lambda *_: 1e11)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"TRAINER_{name}", value)
    chain = [words for words in commands(PAGE) if "runs/a" in words or "runs/c" in words]
    assert " ".join(words[0] for words in chain) == "pretrain midtrain sft dpo ppo eval generate pretrain pretrain"
    for words in chain:
        if words[0] == "pretrain" and "--steps" in words:
            words[words.index("--steps") + 1] = "3"
        assert main(words) == 0, capsys.readouterr().err
    assert sorted(path.name for path in Path("runs/a").iterdir() if path.is_dir()) == [
        "dpo", "midtrain", "ppo", "prepared", "pretrain", "sft"
    ]  # fmt: skip


def test_the_second_documents_sft_command_runs_as_it_stands_there(tmp_path: Path, monkeypatch, capsys) -> None:
    """Its folders are relative, and it names no other: the weights and the tokens are looked for below ./runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDECAR_ENDPOINT", f"ipc://{tmp_path}/nobody")
    monkeypatch.setattr("trainer.monitoring.measured_peak_flops", lambda *_: 1e11)
    for name, value in {**SMALL, "BATCH_SIZE": "", "SEQ_LEN": "64"}.items():
        monkeypatch.setenv(f"TRAINER_{name}", value)
    config = Path("config/data/posttrain/sft/general.yaml")
    config.parent.mkdir(parents=True)
    config.write_text("datasets:\n- {name: general, format: smoltalk, path: general.jsonl}\n")
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    config.with_name("general.jsonl").write_text(f"{json.dumps(talk)}\n" * 200)
    assert main(["midtrain", "--out", "runs"]) == 0
    monkeypatch.delenv("TRAINER_STEPS")
    words = f"--data_config {config} --from_weight midtrain --use_prepared --epochs 1 --batch_size 16 --use_wandb"
    assert main(["sft", *words.split()]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^Epoch:\[1/1\]\(11/11\) loss:.* grad_norm:\d.* tokens/s:\d.* MFU:\d", out, re.MULTILINE)
    assert [path.name for path in Path("runs").iterdir() if path.name == "prepared"]


def test_the_commands_about_options_say_what_the_page_says(capsys) -> None:
    assert main(["sft", "--show_config"]) == 0
    assert {line.split()[-1] for line in capsys.readouterr().out.splitlines()} == {"default"}
    with pytest.raises(SystemExit):
        main(["sft", "--help"])
    assert "--use_prepared" in capsys.readouterr().out


def test_the_map_names_every_file_and_no_other() -> None:
    files = {str(path.relative_to(ROOT / "trainer")) for path in (ROOT / "trainer").rglob("*.py")}
    named = set(re.findall(r"`((?:data/|tasks/|stages/)?\w+\.py)`", PAGE))
    assert named == {name for name in files if not name.endswith("__init__.py")}


def test_the_first_readings_are_as_short_as_the_page_says() -> None:
    reading = PAGE.split("## Reading it")[1].split("The others, when")[0]
    _, first, second = re.split(r"(?=In half an hour|In another quarter)", reading)
    for part, most in ((first, 1250), (second, 500)):
        [said] = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) lines:", part))
        files = re.findall(r"`((?:data/|stages/)?\w+\.py)`", part)
        counted = sum(len((ROOT / "trainer" / name).read_text().splitlines()) for name in files)
        assert abs(counted - said) < 50
        assert counted <= most


def test_the_page_names_every_set_that_a_folder_is_searched_for() -> None:
    rows = {word for row in re.findall(r"^\| (`[\w-]+`(?:, `[\w-]+`)*) \|", PAGE, re.MULTILINE)
            for word in re.findall(r"`([\w-]+)`", row)}  # fmt: skip
    assert set(KNOWN_DATASETS) <= rows


def test_the_pages_data_config_is_one(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "smoltalk").mkdir()
    (tmp_path / "gsm8k").mkdir()
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    sums = {"question": "2+2?", "answer": "#### 4"}
    for name, row in {"smoltalk/a": talk, "smoltalk/b": talk, "gsm8k/train": sums, "gsm8k/test": sums}.items():
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    (tmp_path / "sft.yaml").write_text(example)
    loaded = tasks.load("sft", None, str(tmp_path / "sft.yaml"), DataReport(), 0.2)
    assert {t.name: (len(t.train), len(t.val)) for t in loaded} == {"SmolTalk": (5, 1), "GSM8K": (3, 3)}


def test_the_exit_codes_are_those_of_the_program(tmp_path: Path, monkeypatch, capsys) -> None:
    codes = [int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(",")]
    from trainer.__main__ import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE

    assert codes == [0, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED]


def test_help_and_values_need_neither_torch_nor_data() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from trainer.__main__ import main; "
        "sys.exit(main(['pipeline', '--show_config']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
