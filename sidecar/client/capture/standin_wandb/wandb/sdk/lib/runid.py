"""Run ids in wandb's form."""

import secrets
import string


def generate_id(length: int = 8) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))
