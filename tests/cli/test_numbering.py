"""Numbered run names."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Command

from sidecar.errors import UserError
from sidecar.numbering import numbered
from sidecar.store import Store


def test_each_template_counts_by_itself_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    assert [numbered(tmp_path, "qwen_run_{n}") for _ in range(3)] == ["qwen_run_1", "qwen_run_2", "qwen_run_3"]
    assert numbered(tmp_path, "other-{n}-{n}") == "other-1-1"
    assert numbered(tmp_path, "plain") == "plain"
    assert numbered(tmp_path, "qwen_run_{n}") == "qwen_run_4"


def test_processes_at_the_same_time_never_get_the_same_number(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sidecar.numbering import numbered\n"
        "for _ in range(20): print(numbered(Path(sys.argv[1]), 'r{n}'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(4)]
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert sorted(names, key=lambda name: int(name[1:])) == [f"r{n}" for n in range(1, 81)]


def test_a_damaged_file_is_an_error_not_a_number_used_again(tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text('{"r{n}": "many"}')
    with pytest.raises(UserError, match=r"numbers\.json .* is damaged"):
        numbered(tmp_path, "r{n}")


def test_a_launched_run_gets_the_next_number_by_option_or_variable(sidecar: Command, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sidecar\nrun = sidecar.init(project='p')\nrun.step(1, loss=1.0)\nrun.finish()\n")
    for option, variable in ((["--name", "qwen_run_{n}"], {}), ([], {"SIDECAR_NAME": "qwen_run_{n}"})):
        process = sidecar("run", "-q", *option, "--", sys.executable, str(script), **variable)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    names = [run.name for run in Store(tmp_path / "data").runs()]
    assert names == ["qwen_run_2", "qwen_run_1"]
