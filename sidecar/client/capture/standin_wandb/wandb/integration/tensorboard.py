"""wandb.tensorboard: what writers take becomes rows of the current run, as with ``sync_tensorboard``."""

from typing import Any

from sidecar.client.capture import hooks, recorder

from ..sdk.lib import module


def patch(root_logdir: str = "", save: bool = True, tensorboard_x: Any = None, pytorch: Any = None) -> None:
    """For the writers made from now on."""
    hooks.install(["tensorboard"])
    run = module._package().run
    recorder.follow_writers(None if run is None else run._recorder)


def unpatch() -> None:
    recorder.follow_writers(None)


def log(tf_summary_str_or_pb: Any, history: Any = None, step: int = 0, namespace: str = "", **_: Any) -> None:
    """Summaries of TensorFlow are counted as not kept."""
    run = module._package().run
    if run is not None and run._recorder is not None:
        run._recorder.count("tensorflow_summary_not_kept")
