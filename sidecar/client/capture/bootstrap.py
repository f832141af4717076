"""Makes ``sidecar`` importable in a training process, whose path need not have it. Loaded by its file's path.

Given: where this file lies. Hands on: the package ``sidecar`` in ``sys.modules``.
Never: changes ``sys.path``: a folder put there could hide the script's own modules.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def load(captured: str) -> None:
    """Raises ImportError with the remedy when this Python lacks what the client needs."""
    if "sidecar" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "sidecar", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["sidecar"] = module
        spec.loader.exec_module(module)
    try:
        import sidecar.client  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{captured} is captured by the sidecar, but {error.name or error} is missing in {sys.executable}:"
            f" pip install trainer-sidecar there, or run without --capture {captured}"
        ) from error
