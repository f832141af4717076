"""wandb.sdk.integration_utils: that of the installed wandb."""

from ..._installed import folders

__path__ = [*__path__, *folders("sdk/integration_utils")]
