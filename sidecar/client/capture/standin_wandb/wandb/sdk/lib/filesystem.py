"""Folders, by wandb's names."""

import os
from typing import Any


def mkdir_exists_ok(dir_name: Any) -> None:
    os.makedirs(dir_name, exist_ok=True)
