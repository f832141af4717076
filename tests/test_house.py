"""The house rules that a machine can check: who may import whom, what is banned, how long things may be."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 480  # 400 is the aim; beyond this a file must be split.
FUNCTION_LINES_MAX = 70

LAYERS = [
    {"wire", "ring", "rendezvous", "descriptors", "errors"},
    {"telemetry", "state", "snapshot", "metrics", "aliases", "config", "curve", "filesystems"},
    {"derive", "fold", "history", "journal", "journal_reader", "salvage", "streams"},
    {"rows", "store"},
    {"hardware", "intake", "recovery", "sinks", "web", "export", "charts"},
    {"pipeline"},
    {"service"},
    {"cli", "commands", "launch", "banner", "card", "child", "drain", "live", "screen", "supervise",
     "__main__"},
]
"""From the ground up: a module imports from its own layer and those below, never from above. A module that is not
named here lies as high as the highest one it imports."""

CLIENT_MAY_USE = {"client", "wire", "ring", "rendezvous", "descriptors", "waker"}
CLIENT_LIBRARIES = {"zmq", "msgspec"}
GUESTS = {"torch", "numpy", "transformers", "accelerate", "lightning", "pytorch_lightning", "wandb", "tensorboard"}
"""What modules of capture/ and integrations/ may import: they are loaded only where the user has these."""
BANNED_MODULES = {"pickle", "marshal", "shelve", "cloudpickle", "dill", "joblib"}
BANNED_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj"}
DERIVE_MAY_NOT = {"os", "io", "socket", "sqlite3", "subprocess", "threading", "pathlib", "time", "zmq", "asyncio"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def is_imitation(path: Path) -> bool:
    """A stand-in for another library: it has that library's shape, not ours."""
    return any(part.startswith("standin_") for part in path.parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path, *, at_import_time_only: bool = False) -> set[str]:
    """Dotted names a module imports; ``from a import b`` counts as a.b."""
    found: set[str] = set()
    nodes = _top_level(tree_of(path)) if at_import_time_only else ast.walk(tree_of(path))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or is_imitation(path), f"{path}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not those in functions, nor under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _top_level(child)


def own_parts(path: Path) -> set[str]:
    """Which first-level parts of ``sidecar`` a module imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("sidecar.")} - {"__version__"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "sidecar").with_suffix("").parts[0]


def server_modules() -> list[Path]:
    return [path for path in modules("sidecar") if part_of(path) not in ("client", "__init__")]


@cache
def level_of(part: str) -> int:
    declared = [rank for rank, layer in enumerate(LAYERS) if part in layer]
    if declared:
        return declared[0]
    own = [path for path in server_modules() if part_of(path) == part]
    return max((level_of(other) for path in own for other in own_parts(path) if other != part), default=0)


@pytest.mark.parametrize("path", server_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    above = {other for other in own_parts(path) if level_of(other) > level_of(part)}
    assert not above, f"{part} imports {sorted(above)} from above"


@pytest.mark.parametrize("path", server_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_sidecar_process_imports_neither_client_nor_torch(path: Path) -> None:
    names = imported(path)
    assert "client" not in own_parts(path)
    assert not {name for name in names if name.split(".")[0] in ("torch", "transformers", "trainer")}


@pytest.mark.parametrize("path", modules("sidecar/client"), ids=lambda path: str(path.relative_to(ROOT)))
def test_client_imports_only_the_contract_and_two_libraries(path: Path) -> None:
    pure = {"derive"} if path.stem.startswith("compat") else set()  # The documents' functions; no I/O in there.
    assert own_parts(path) <= CLIENT_MAY_USE | pure
    if is_imitation(path):
        return
    roots = {name.split(".")[0] for name in imported(path, at_import_time_only=True)}
    guests = GUESTS if {"capture", "integrations"} & set(path.parts) else set()
    assert roots <= sys.stdlib_module_names | CLIENT_LIBRARIES | guests | {"sidecar"}


@pytest.mark.parametrize("path", modules("trainer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_trainer_talks_to_the_sidecar_only_through_the_client(path: Path) -> None:
    assert own_parts(path) <= {"client", "init", "Run"}


@pytest.mark.parametrize("path", modules("sidecar/derive"), ids=lambda path: path.name)
def test_derive_does_no_io_and_reads_no_clock(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & DERIVE_MAY_NOT


def test_sinks_do_not_import_one_another() -> None:
    from sidecar.sinks.registry import SINKS

    outlets = {target.partition(":")[0] for target in SINKS.values()}
    for outlet in outlets:
        path = ROOT / (outlet.replace(".", "/") + ".py")
        others = {name.rpartition(".")[0] for name in imported(path)} | imported(path)
        assert not (outlets - {outlet}) & others, outlet


@pytest.mark.parametrize("path", modules("sidecar") + modules("trainer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    for name in {name.split(".")[0] for name in imported(path)} & BANNED_MODULES:
        assert attributes_used(path, name) <= {"UnpicklingError"}, name  # Catching what torch.load raises is fine.
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            on_own = isinstance(node.func, ast.Name) or name.endswith("pyobj")
            assert not (name in BANNED_CALLS and on_own), f"{path}:{node.lineno}: {name}"
            is_yaml = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "yaml"
            assert not (is_yaml and name in ("load", "unsafe_load")), f"{path}:{node.lineno}: yaml.{name}"


@pytest.mark.parametrize("path", modules("sidecar") + modules("trainer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short_and_modules_say_what_they_are(path: Path) -> None:
    if is_imitation(path):
        return
    tree = tree_of(path)
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, f"{path}:{node.lineno}: {node.name}"
    assert ast.get_docstring(tree) or not tree.body, "a module starts with what it is given and hands on"


def attributes_used(path: Path, module: str) -> set[str]:
    """Which attributes of an imported module a file touches."""
    nodes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if getattr(node.value, "id", "") == module} or {"?"}


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def test_repository_names_no_local_path_and_no_package_registry() -> None:
    registries = r"pypi\.(org|python)|pythonhosted|download\.pytorch|files\.python|npmjs|anaconda\.org"
    local = r"(?<![\w.~-])/(root|work)/\w"
    pattern = re.compile(f"{registries}|{local}")
    itself = "tests/test_house.py"
    found = [
        f"{name}: {match[0]}" for name, text in tracked_text() if name != itself for match in pattern.finditer(text)
    ]
    assert not found


def run_python(code: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environ
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


def test_import_sidecar_loads_the_standard_library_only_and_the_client_two_packages() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "def third():\n"
        "    new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "    quiet = {'sidecar', 'typing_extensions', 'cython_runtime'}  # msgspec takes the second where it is there\n"
        "    return sorted(n for n in new - sys.stdlib_module_names - quiet if not n.startswith('_cython'))\n"
        "import sidecar; print(third())\n"
        "sidecar.init; print(third())\n"
    )
    lines = run_python(code).stdout.splitlines()
    assert lines == ["[]", "['msgspec', 'zmq']"]


def test_client_works_where_only_pyzmq_and_msgspec_are_installed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Only:\n"
        "    allowed = sys.stdlib_module_names | {'zmq', 'msgspec', 'sidecar'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        root = name.split('.')[0]\n"
        "        if root not in self.allowed and not root.startswith('_'):\n"
        "            raise ModuleNotFoundError(f'No module named {root!r}', name=root)\n"
        "sys.meta_path.insert(0, Only())\n"
        "import sidecar\n"
        f"run = sidecar.init(project='p', endpoint='ipc://{tmp_path}/none')\n"
        "run.step(1, loss=2.5, tokens=8)\n"
        "run.finish()\n"
        "print('done')\n"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_sidecar_commands_load_without_torch_and_numpy() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'trainer'): sys.modules[name] = None\n"
        "import sidecar.service, sidecar.export, sidecar.launch, sidecar.web.app\n"
        "print('wandb' in sys.modules, 'sidecar.client' in sys.modules)\n"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "False False\n"), result.stderr
