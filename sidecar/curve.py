"""Keys for events that come over a network: who the sidecar is, and which trainers it listens to.

Given: a folder of keys. Hands on: a socket that only listed trainers can talk to, encrypted.
Never: opens a tcp endpoint without keys (not on loopback either: any local user could write there), or reads a
secret key that others can read.

Layout of the folder: ``server.key_secret``, ``server.key``, and ``allowed/NAME.key`` for each trainer that may speak.
"""

import stat
from pathlib import Path

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from sidecar.errors import Exit, UserError

SERVER = "server"
ALLOWED = "allowed"
TRAINERS = "trainers"


def create_keys(folder: Path, trainer: str = "trainer") -> tuple[str, Path]:
    """Make what is missing: the server's pair, and a pair for ``trainer`` that is allowed from now on.

    Returns the server's public key and the path of the trainer's secret key, which goes to the trainer's host.
    """
    for part in (folder, folder / ALLOWED, folder / TRAINERS):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / f"{SERVER}.key_secret").exists():
        _create(folder, SERVER)
    secret = folder / TRAINERS / f"{trainer}.key_secret"
    if not secret.exists():
        public, _ = _create(folder / TRAINERS, trainer)
        (folder / ALLOWED / public.name).write_bytes(public.read_bytes())
    return server_public_key(folder), secret


def server_public_key(folder: Path) -> str:
    public, _ = zmq.auth.load_certificate(folder / f"{SERVER}.key")
    return public.decode()


def _create(folder: Path, name: str) -> tuple[Path, Path]:
    public, secret = (Path(path) for path in zmq.auth.create_certificates(folder, name))
    secret.chmod(0o600)
    return public, secret


def secure(context: "zmq.Context[zmq.Socket[bytes]]", socket: "zmq.Socket[bytes]", folder: Path) -> ThreadAuthenticator:
    """Make ``socket`` a CURVE server for the listed trainers. Stop what it returns at the end. Raises UserError."""
    secret_file = folder / f"{SERVER}.key_secret"
    if not secret_file.exists():
        raise UserError(
            f"a tcp endpoint needs keys, and there are none in {folder}",
            "make them with `sidecar keys`, or use the default ipc endpoint",
            exit_code=Exit.USAGE,
        )
    if secret_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(
            f"others can read the secret key {secret_file}", f"chmod 600 {secret_file}", exit_code=Exit.USAGE
        )
    try:
        public, private = zmq.auth.load_certificate(secret_file)
        socket.curve_publickey, socket.curve_secretkey, socket.curve_server = public, private, True
    except (OSError, ValueError, TypeError, zmq.ZMQError) as error:
        remedy = f"remove {secret_file} and {SERVER}.key beside it, and make them again with `sidecar keys`"
        raise UserError(f"the secret key {secret_file} cannot be used: {error}", remedy, Exit.USAGE) from None
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    # Without an allow-list CURVE lets any key in.
    authenticator.configure_curve(domain="*", location=str(folder / ALLOWED))
    return authenticator
