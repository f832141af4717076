"""What the distribution holds and declares."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import sidecar

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the checkout without the network."""
    out = tmp_path_factory.mktemp("wheel")
    code = (
        "from hatchling.builders.wheel import WheelBuilder\n"
        f"print(next(WheelBuilder({str(ROOT)!r}).build(directory={str(out)!r})))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return zipfile.ZipFile(result.stdout.strip().splitlines()[-1])


def test_wheel_holds_sidecar_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"sidecar", f"trainer_sidecar-{sidecar.__version__}.dist-info"}


def test_wheel_has_the_page_and_the_typing_marker_and_every_module(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    listed = subprocess.run(["git", "ls-files", "sidecar"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert "sidecar/py.typed" in names
    assert tracked <= names
    assert any(name.startswith("sidecar/web/page/") and name.endswith(".html") for name in names)


def test_wheel_declares_the_command_and_the_python_version(wheel: zipfile.ZipFile) -> None:
    info = f"trainer_sidecar-{sidecar.__version__}.dist-info"
    assert "sidecar = sidecar.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert not re.search(r"^Requires-Dist: torch(?!.*extra ==)", metadata, re.MULTILINE)


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!\[ ]", requirement)[0] for requirement in requirements}


def test_every_package_that_sidecar_imports_is_declared() -> None:
    packages = {"zmq": "pyzmq", "pynvml": "nvidia-ml-py", "starlette": "fastapi"}
    packages["opentelemetry"] = "opentelemetry-proto"
    found = set()
    for path in (ROOT / "sidecar").rglob("*.py"):
        if any(part.startswith("standin_") or part == "client" for part in path.parts):
            continue  # The client imports what the user has, where it has it (tests/test_house.py).
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    third = {packages.get(name, name.replace("_", "-")) for name in found - sys.stdlib_module_names - {"sidecar"}}
    optional = declared([one for extra in PROJECT["optional-dependencies"].values() for one in extra])
    assert third <= declared(PROJECT["dependencies"]) | optional
    assert "torch" not in third


def test_base_dependencies_are_those_of_the_decision_record() -> None:
    record = (ROOT / "docs/decisions/0001-names-and-packaging.md").read_text()
    assert all(name in record for name in declared(PROJECT["dependencies"]))


def test_torch_is_one_pinned_version_everywhere() -> None:
    assert "torch==2.13.0" in PROJECT["optional-dependencies"]["trainer"]
    assert "TORCH ?= torch==2.13.0" in (ROOT / "Makefile").read_text()


def test_make_run_leaves_directory_and_port_to_the_environment() -> None:
    result = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    [line] = [line for line in result.stdout.splitlines() if "sidecar run" in line]
    assert line.rstrip().endswith("sidecar run --sink wandb -- python -m trainer pretrain")
    assert 'WANDB_MODE="${WANDB_MODE:-offline}"' in line
    assert "--dir" not in line
    assert "--port" not in line
