"""What happens when a captured process imports a library that is patched rather than replaced.

Given: the names after ``--capture``. Hands on: the library's module, just imported, to the part that patches it.
Never: imports a library itself, or fails an import because a patch failed. Loaded by its file's path.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

PATCHES = {
    "torch": [("torch.optim.optimizer", "torch_steps", "install")],
    "tensorboard": [
        ("torch.utils.tensorboard.writer", "tensorboard", "install"),
        ("tensorboardX.writer", "tensorboard", "install"),
    ],
    "wandb+": [("wandb", "forward_wandb", "install")],
    "swanlab+": [("swanlab", "forward_swanlab", "install")],
}
"""Capture -> (module waited for, module of this folder, its function)."""


def install(names: Sequence[str]) -> None:
    """Patch these libraries when they are imported; at once if they have been imported already."""
    waiting = {module: (part, function, name) for name in names for module, part, function in PATCHES.get(name, [])}
    for module in [module for module in waiting if module in sys.modules]:
        _patch(sys.modules[module], *waiting.pop(module))
    if waiting:
        sys.meta_path.insert(0, Finder(waiting))


class Finder:
    """An import hook that finds no module itself: it asks the other finders, and patches the module once it has run.

    A script may look for a spec without importing it (transformers does, to see whether wandb is installed), and an
    import may fail and be tried again: a module is waited for until it has run.
    """

    def __init__(self, waiting: dict[str, tuple[str, str, str]]) -> None:
        self._waiting = waiting

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in self._waiting:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._patch_when_run(name, spec.loader)
        return spec

    def _patch_when_run(self, name: str, loader: Any) -> None:
        run: Callable[[ModuleType], None] = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if module.__name__ == name and name in self._waiting:  # A zip file has one loader for all its modules.
                _patch(module, *self._waiting.pop(name))

        loader.exec_module = exec_module


def _patch(module: ModuleType, part: str, function: str, capture: str) -> None:
    try:
        spec = importlib.util.spec_from_file_location("_sidecar_bootstrap", Path(__file__).with_name("bootstrap.py"))
        assert spec is not None
        assert spec.loader is not None
        bootstrap = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bootstrap)
        bootstrap.load(capture.rstrip("+"))
        getattr(importlib.import_module(f"sidecar.client.capture.{part}"), function)(module)
    except Exception as error:  # noqa: BLE001  # The script's import must succeed, captured or not.
        print(f"sidecar: {capture} is not captured: {error}", file=sys.stderr)
