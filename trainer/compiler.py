"""torch.compile, and what to say where it cannot: it needs a C++ compiler on CPUs, and a C compiler on GPUs.

Given: a module. Hands on: one that is compiled when it is first called; or, of a failure, one line.
"""

import sys

import torch
from torch import nn

from trainer.errors import UserError


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model)  # type: ignore[return-value]


def compiler_failed(error: BaseException, when: str) -> UserError | None:
    """What to tell the user if ``error`` comes from the compiler; else None."""
    dynamo = sys.modules.get("torch._dynamo.exc")  # Not loaded: nothing was compiled.
    if dynamo is None or not isinstance(error, dynamo.TorchDynamoException):
        return None
    cause = getattr(error, "inner_exception", error)
    [line, *_] = str(cause).strip().splitlines() or [type(cause).__name__]
    return UserError(
        f"torch.compile failed{when}: {line}",
        "if it misses a compiler, install one (apt-get install g++); or train without: --no-compile",
    )
