"""The one error that users see: what is wrong in one line, what to do about it in another.

Raised before training starts, or when it cannot go on; ``python -m trainer`` prints both lines and exits with 2.
"""

import sys


class UserError(Exception):
    """Something the user gave us cannot work. Never used for faults of our own: those keep their traceback."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


class UsageError(UserError):
    """A wrong command, flag or configuration file: under torchrun the same on every rank."""


def as_user_error(error: BaseException, device: object, when: str = "") -> UserError | None:
    """What it means to the user that torch raised ``error``; None if it is a fault of ours."""
    import torch  # Not at the top: wrong flags are refused without loading it.

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
