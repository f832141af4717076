"""The second run of the check: only after few failures of a run that came to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("failed", "code"), [(["a.py::test_x"], 0), ([], 1), ([f"a.py::t{n}" for n in range(21)], 1)])
def test_few_failed_tests_are_named_and_run_again(
    repository: Path, tmp_path: Path, failed: list[str], code: int
) -> None:
    note = tmp_path / "v" / "cache" / "lastfailed"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps(dict.fromkeys(failed, True)))
    command = [sys.executable, str(repository / ".ci/second_run.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert all(f"!!!!   {name}\n" in done.stdout for name in failed)


def test_project_of_the_launch_is_the_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import config, flags

    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert flags.parse(config.Config, "pretrain", []).project == "theirs"
    monkeypatch.setenv("SIDECAR_PROJECT", "launch")
    assert flags.parse(config.Config, "pretrain", []).project == "launch"
    assert flags.parse(config.Config, "pretrain", ["--project", "mine"]).project == "mine"


def test_every_package_that_the_tests_import_is_declared(repository: Path) -> None:
    import ast
    import re
    import tomllib

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["test"]]
    for inner in re.findall(r"trainer-sidecar\[([^\]]*)\]", " ".join(extras["test"])):
        named += [one for extra in inner.split(",") for one in extras[extra]]
    declared = {re.split(r"[<>=!\[ ]", one)[0].lower() for one in named}
    names = {"zmq": "pyzmq", "pynvml": "nvidia-ml-py", "opentelemetry": "opentelemetry-proto", "starlette": "fastapi"}
    # Peers that a test imitates with a module of its own, and what comes with a declared package.
    others = {"sidecar", "trainer", "tests", "benchmarks", "trackio", "mlflow", "swanlab", "lightning_utilities"}
    own = {path.stem for path in (repository / "tests").rglob("*.py")} | {
        path.name for path in (repository / "tests").iterdir()
    }
    found = set()
    for path in (repository / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0] for name in imported}
    third = found - sys.stdlib_module_names - others - own
    assert {names.get(name, name).replace("_", "-").lower() for name in third} <= declared
