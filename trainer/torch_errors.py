"""What torch's errors mean to the user: no memory is left, or torch.compile has no compiler.

Given: an exception. Hands on: the UserError to raise in its place, if it is one of these.
"""

import sys

import torch

from trainer.errors import UserError


def as_user_error(error: BaseException, device: torch.device, when: str = "") -> UserError | None:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        # The last is how torch says it of a CPU, in a RuntimeError.
        return UserError(
            f"{device} is out of memory{when}",
            "make the model or --batch_size smaller; for training, raise --grad_accum by as much, or add "
            "--checkpoint_activations",
        )
    dynamo = sys.modules.get("torch._dynamo.exc")  # Not loaded: nothing was compiled.
    if dynamo is not None and isinstance(error, dynamo.TorchDynamoException):
        cause = getattr(error, "inner_exception", error)
        [line, *_] = str(cause).strip().splitlines() or [type(cause).__name__]
        return UserError(
            f"torch.compile failed{when}: {line}",
            "if it misses a compiler, install one (apt-get install g++); or train without: --no-compile",
        )
    return None
