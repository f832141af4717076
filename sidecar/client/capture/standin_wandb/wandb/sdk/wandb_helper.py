"""Anything that can serve as a configuration, as a dict."""

import inspect
from typing import Any

from ..errors import UsageError
from .lib import config_util


def parse_config(params: Any, exclude: Any = None, include: Any = None) -> dict[str, Any]:
    """Raises TypeError for what is neither a map nor has a ``__dict__``, UsageError for both filters at once."""
    if exclude and include:
        raise UsageError("Expected at most only one of exclude or include")
    if isinstance(params, str):
        params = config_util.dict_from_config_file(params, must_exist=True)
    params = _to_dict(params)
    if include:
        params = {key: value for key, value in params.items() if key in include}
    if exclude:
        params = {key: value for key, value in params.items() if key not in exclude}
    return params


def _to_dict(params: Any) -> dict[str, Any]:
    from .lib.preinit import PreInitObject
    from .wandb_config import Config

    if isinstance(params, dict):
        return params
    if isinstance(params, Config):
        return dict(params)
    if isinstance(params, PreInitObject):
        return {}
    module = inspect.getmodule(params)
    if module is not None and module.__name__ == "absl.flags":
        params = params.FLAGS
        module = inspect.getmodule(params)
    if module is not None and module.__name__ == "absl.flags._flagvalues":
        return {name: params[name].value for name in dir(params)}
    if not hasattr(params, "__dict__"):
        raise TypeError("config must be a dict or have a __dict__ attribute.")
    return vars(params)
