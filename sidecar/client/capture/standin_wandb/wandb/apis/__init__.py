"""The public API asks W&B's server, which a captured run does not."""

from .public import Api

PublicApi = Api
__all__ = ("Api", "PublicApi")
