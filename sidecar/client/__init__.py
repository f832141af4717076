"""The part of the sidecar that runs inside training processes.

Beyond the standard library it imports pyzmq and msgspec, nothing else, at import time.
"""

from sidecar.client.run import Run
from sidecar.client.start import init

__all__ = ["Run", "init"]
