"""Finds the sidecar's client, wherever it is installed."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "_sidecar_bootstrap", Path(__file__).resolve().parents[2] / "bootstrap.py"
)
assert _spec is not None
assert _spec.loader is not None
_bootstrap = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_bootstrap)
_bootstrap.load("wandb")
