"""Names of wandb's environment variables, and what they say."""

import os

PROJECT, ENTITY, MODE, DIR, NAME, RUN_ID = (
    "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE", "WANDB_DIR", "WANDB_NAME", "WANDB_RUN_ID",
)  # fmt: skip
API_KEY, BASE_URL, RESUME, TAGS, NOTES, SILENT = (
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_RESUME", "WANDB_TAGS", "WANDB_NOTES", "WANDB_SILENT",
)  # fmt: skip


def get_project(default: str | None = None) -> str | None:
    return os.environ.get(PROJECT, default)


def set_project(value: str) -> None:
    os.environ[PROJECT] = value


def get_entity(default: str | None = None) -> str | None:
    return os.environ.get(ENTITY, default)


def set_entity(value: str) -> None:
    os.environ[ENTITY] = value


def get_dir(default: str | None = None) -> str | None:
    return os.environ.get(DIR, default)


def is_offline() -> bool:
    return os.environ.get(MODE) in ("offline", "dryrun")
