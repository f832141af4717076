"""The commands themselves: help, usage errors, and what they say without a sidecar."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Command

from sidecar.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
LINES_OF_A_SCREEN = 30


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_first_what_it_does_has_two_examples_and_fits_one_screen(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    assert lines[0].endswith(".")
    assert lines[2] == "examples:"
    assert all("sidecar " + name in line for line in lines[3:5])
    assert len(lines) <= LINES_OF_A_SCREEN
    assert max(map(len, lines)) <= 110


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert len(out.splitlines()) <= LINES_OF_A_SCREEN


def test_every_command_is_in_the_documentation() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    assert all(f"`sidecar {name}" in page for name in COMMANDS)


def test_settings_in_the_documentation_are_those_of_the_code() -> None:
    from sidecar.config import document

    assert document() in (ROOT / "docs/cli.md").read_text()


def test_exit_codes_in_the_documentation_are_those_of_the_code() -> None:
    from sidecar.errors import Exit

    page = (ROOT / "docs/cli.md").read_text()
    assert all(f"| {code.value} |" in page for code in Exit)


@pytest.mark.parametrize(
    ("arguments", "code", "cause", "fix"),
    [
        (["rn"], 2, "unknown command 'rn'", "did you mean `sidecar run`?"),
        (["status", "--jsn"], 2, "sidecar status: unknown option: --jsn", "did you mean --json?"),
        (["run", "--token", "x", "--", "true"], 2, "unknown option: --token", "set SIDECAR_TOKEN, or token in"),
        (["export"], 2, "required: RUN", "--help"),
        (["export", "latest", "--format", "xml"], 2, "invalid choice: 'xml'", "--help"),
        (["export", "latest"], 3, "no run 'latest' in", "--dir"),
        (["status"], 3, "no sidecar is running on", "sidecar serve"),
        (["top"], 3, "no sidecar is running on", "sidecar serve"),
        (["serve", "--sink", "wanbd"], 2, "unknown sink 'wanbd'", "wandb"),
        (["status", "--run", "nope"], 3, "no sidecar is running on", "sidecar serve"),
        (["top", "--every", "nan"], 2, "--every: 'nan' is not a number of 0.1 or more", "`sidecar top --help`"),
        (["bench", "overhead", "--step-ms", "inf"], 2, "--step-ms: 'inf' is not a number of", "`sidecar bench --help`"),
        (["demo", "--steps", "-5"], 2, "--steps: '-5' is not a whole number of 1 or more", "`sidecar demo --help`"),
        (["sync", "--timeout", "soon"], 2, "--timeout: 'soon' is not a number of 0 or more", "`sidecar sync --help`"),
        (["keys", "--trainer", "../x"], 2, "'../x' cannot be a file name", "letters, digits"),
        (["config"], 2, "required: show", "`sidecar config --help`"),
        (["runs", "--project", "p"], 3, "no runs of project 'p' in", "`sidecar demo`"),
        (["report", "latest", "-o", "x.pdf"], 2, "cannot tell from its name what x.pdf", ".html or .md"),
        (["runs", "--", "x"], 2, "no command is taken here", "--help"),
    ],
)
def test_mistakes_are_a_cause_and_a_remedy(
    arguments: list[str], code: int, cause: str, fix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SIDECAR_DIR", str(tmp_path / "empty"))
    assert main(arguments) == code
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, len(lines)) == ("", 2)
    assert lines[0].startswith("error: ")
    assert cause in lines[0]
    assert lines[1].startswith("fix: ")
    assert fix in lines[1]


@pytest.mark.parametrize("arguments", [["runs"], ["status"], ["export", "x"], ["keys"], ["viz"]])
def test_a_path_that_cannot_be_used_is_two_lines_for_every_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*arguments, "--dir", str(tmp_path / ("x" * 300))])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) in ((73, 2), (3, 2)), lines
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("fix: ")


def test_corrupt_settings_file_is_two_lines_for_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sidecar.toml").write_text("port = \n")
    monkeypatch.chdir(tmp_path)
    for arguments in (["run", "--", "true"], ["serve"], ["runs"], ["config", "show"], ["doctor"]):
        assert main(arguments) == 2
        assert "line 1" in capsys.readouterr().err


def test_no_runs_is_an_empty_list_for_programs_and_exit_code_3_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--json", "--dir", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "--dir", str(tmp_path)]) == 3


def test_config_show_masks_the_token_and_names_origins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_TOKEN", "hush-hush")
    assert main(["config", "show", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert "hush-hush" not in out
    assert any(line.split() == ["token", "***", "SIDECAR_TOKEN"] for line in out.splitlines())
    assert any(line.split() == ["port", "0", "option", "--port"] for line in out.splitlines())
    assert main(["config", "show", "--json"]) == 0
    assert "hush-hush" not in capsys.readouterr().out


def test_doctor_finds_nothing_wrong_here_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    code = main(["doctor", "--json", "--port", "0", "--dir", str(tmp_path)])
    out = capsys.readouterr().out
    findings = json.loads(out)
    assert code in (0, 1)
    assert "0123456789" not in out
    assert {finding["check"] for finding in findings} >= {"python", "packages", "directory", "port", "gpu", "clock"}
    assert all(finding["fix"] for finding in findings if finding["level"] != "ok")


def test_doctor_says_what_is_broken_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sidecar.commands.doctor.PACKAGES", ("no-such-package-anywhere",))
    assert main(["doctor", "--dir", str(tmp_path), "--port", "0"]) == 2
    assert "missing: no-such-package-anywhere" in capsys.readouterr().out


def test_help_loads_neither_web_server_nor_zmq() -> None:
    code = (
        "import sys\nfrom sidecar.cli import main\nmain(['--help'])\n"
        "heavy = {'fastapi', 'uvicorn', 'zmq', 'msgspec', 'psutil', 'wandb', 'sqlite3', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


def test_output_that_cannot_be_written_is_two_lines_and_a_code(sidecar: Command, trained: Path) -> None:
    for arguments in (["runs"], ["export", "r1"], ["export", "r1", "-o", "/dev/full"]):
        with open("/dev/full", "w") as full:
            process = subprocess.run([sys.executable, "-m", "sidecar", *arguments, "--dir", str(trained)],
                                     cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert process.returncode == 73, process.stderr
        assert "No space left on device" in process.stderr.splitlines()[0]
        assert len(process.stderr.splitlines()) == 2


def test_a_locale_without_our_letters_is_no_traceback(trained: Path) -> None:
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    report = subprocess.run([sys.executable, "-m", "sidecar", "report", "r1", "--dir", str(trained)],
                            cwd=ROOT, env=os.environ | posix, capture_output=True, text=True)  # fmt: skip
    assert (report.returncode, report.stderr) == (0, "")
    assert report.stdout.isascii()


def test_csv_is_said_to_be_write_only(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "r1", "--format", "csv", "-o", "r1.csv", "--dir", str(trained)]) == 0
    for command in (["viz", "r1.csv"], ["compare", "r1", "r1.csv"], ["report", "r1.csv"]):
        assert main([*command, "--dir", str(trained)]) == 3
        err = capsys.readouterr().err
        assert "r1.csv: CSV cannot be read back" in err
        assert "JSON lines or Parquet" in err


def test_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "SIDECAR_DIR": str(tmp_path)}
    command = f"{sys.executable} -m sidecar config show | true"
    result = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stderr
