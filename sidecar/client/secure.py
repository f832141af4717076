"""A trainer that talks to a sidecar on another host: always encrypted, always to the sidecar it expects.

Given: SIDECAR_SERVER_KEY (the sidecar's public key) and SIDECAR_CLIENT_KEY (path of our secret key file).
Hands on: a configured socket. Never: sends an event over tcp in the clear.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import zmq


class NoKeys(ValueError):
    """The endpoint is tcp and a key is missing, unreadable, or readable by others."""


def configure(socket: "zmq.Socket[bytes]", endpoint: str, environ: Mapping[str, str]) -> None:
    """Set the keys when ``endpoint`` needs them. Raises NoKeys."""
    if not endpoint.startswith("tcp://"):
        return
    import zmq.auth

    server, path = environ.get("SIDECAR_SERVER_KEY"), environ.get("SIDECAR_CLIENT_KEY")
    if not server or not path:
        raise NoKeys("a tcp endpoint needs SIDECAR_SERVER_KEY and SIDECAR_CLIENT_KEY; `sidecar keys` prints both")
    try:
        if os.stat(path).st_mode & 0o077:
            raise NoKeys(f"others can read the secret key {path}; chmod 600 it")
        public, secret = zmq.auth.load_certificate(path)
        if secret is None:
            raise NoKeys(f"{path} holds no secret key")
        socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = public, secret, server.encode()
    except (OSError, zmq.ZMQError) as error:
        raise NoKeys(f"the keys cannot be used: {error}") from error
