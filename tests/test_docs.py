"""What the pages say is run, so that it stays true."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "deploy/README.md"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL and directory of a sidecar under which the README's own example has run."""
    directory = tmp_path_factory.mktemp("docs")
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (directory / "train.py").write_text(example + "\nimport time; time.sleep(600)\n")
    data = directory / "data"
    env = os.environ | {"SIDECAR_DIR": str(data), "SIDECAR_PORT": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sidecar", "run", "-q", "--", sys.executable, str(directory / "train.py")]
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (data / "endpoints.json").exists():
                url = json.loads((data / "endpoints.json").read_text())["http"]
                if json.loads(curl(f"curl -s {url}/status")).get("val"):
                    break
            time.sleep(0.1)
        yield url, data
    finally:
        process.terminate()
        process.wait(30)


def curl(line: str) -> str:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30).stdout


def shell_lines(text: str) -> list[str]:
    """The indented command lines of a page, comments taken off."""
    return [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines() if line.startswith("    ")]


def test_the_example_of_the_readme_is_what_the_status_shows(run: tuple[str, Path]) -> None:
    status = json.loads(curl(f"curl -s {run[0]}/status"))
    assert (status["project"], status["name"], status["step"], status["tokens"]) == ("nanochat", "d12", 3, 6144)
    assert status["val"]["loss"] == 2.1


def test_every_curl_line_of_the_readme_answers(run: tuple[str, Path]) -> None:
    lines = [line for line in shell_lines(README) if line.startswith("curl")]
    assert len(lines) == 3
    for line in lines:
        assert curl(line.replace("127.0.0.1:9797", run[0].removeprefix("http://"))), line


def test_every_sidecar_line_of_the_readme_is_a_command_that_works(run: tuple[str, Path], tmp_path: Path) -> None:
    lines = [line for line in shell_lines(README) if line.startswith(".venv/bin/sidecar")]
    env = os.environ | {"SIDECAR_DIR": str(run[1]), "PYTHONPATH": str(ROOT)}
    for line in lines:
        words = line.split()[1:]
        command = [sys.executable, "-m", "sidecar", *words]
        result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, (line, result.stderr)
    assert len(lines) == 3


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_pages_name_exist(page: Path) -> None:
    from sidecar.cli import COMMANDS

    for name in re.findall(r"`sidecar ([a-z]+)\b", page.read_text()):
        assert name in COMMANDS, name


def test_files_that_the_architecture_page_names_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for name in re.findall(r"\*\*`([\w/.]+)`\*\*", text):
        assert (ROOT / "sidecar" / name).exists(), name


def test_modules_that_the_readme_runs_exist() -> None:
    for name in re.findall(r"python -m (benchmarks\.\w+)", README):
        assert (ROOT / (name.replace(".", "/") + ".py")).exists(), name
