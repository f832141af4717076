"""Is torch.compile tracing the code that runs now?

Given: nothing. Hands on: a function that returns False when run and True when traced. Never: imports torch.

A hook that is traced becomes part of the compiled code: what it reads becomes guards that fail, and compile again, step
after step; with ``fullgraph=True`` it is an error. So every hook of ours asks this first, and traced it does nothing.
"""

import sys
from collections.abc import Callable


def tracing_test() -> Callable[[], bool]:
    """Torch's own function, which torch.compile replaces by True. Call it where a hook is made, not in the hook."""
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    found: Callable[[], bool] = getattr(compiler, "is_dynamo_compiling", _never)
    return found


def _never() -> bool:
    return False
