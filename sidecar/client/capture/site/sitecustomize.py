"""Runs when Python starts, in every process of a captured command: installs the captures, then the user's own
sitecustomize.

Given: SIDECAR_CAPTURE. Hands on: import hooks. Never: imports a library itself, or lets an error of its own out.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _install() -> None:
    wanted = [name for name in os.environ.get("SIDECAR_CAPTURE", "").split(",") if name and name != "wandb"]
    if not wanted:
        return
    import importlib.util

    spec = importlib.util.spec_from_file_location("_sidecar_capture_hooks", HERE.parent / "hooks.py")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["_sidecar_capture_hooks"] = module
        spec.loader.exec_module(module)
        module.install(wanted)


def _chain() -> None:
    """The user's own sitecustomize: the next one on the path."""
    import importlib.machinery

    path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        import importlib.util

        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    _install()
except Exception as error:  # noqa: BLE001  # Python must start, captured or not.
    print(f"sidecar: capture is off: {error!r}", file=sys.stderr)
_chain()
